"""The benchmark of memory: the small run takes the way of the large one, and the large one never starts here."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from tagmoe.pipeline.memory.plans import PLANS
from tagmoe.pipeline.memory.sizes import read_sizes
from tagmoe.pipeline.packaged import packaged_folder

NAMES = [f"moe_{plan.name.replace('-', '_')}" for plan in PLANS]
NAMES += [f"dense_{plan.name.replace('-', '_')}" for plan in PLANS if not plan.is_quantised]


@pytest.mark.slow
def test_the_small_run_measures_every_plan_within_the_arithmetic(benchmark: Any) -> None:
    torch.set_num_threads(1)
    figures = {figure.name: figure for figure in benchmark.measure("cpu", "tiny", 24.0, 1)}
    for name in NAMES:
        peak = figures[f"{name}_peak"]
        assert peak.holds, (name, peak.value, peak.wanted)
        # A CPU fetches no next block, for which the arithmetic of group offload has room.
        share = 0.5 if "group" in name else 0.75
        assert peak.value > share * peak.wanted, (name, peak.value, peak.wanted)
        assert figures[f"{name}_step"].value > 0
    order = ["moe_resident", "moe_8_bit", "moe_4_bit"]
    peaks = [figures[f"{name}_peak"].value for name in order]
    assert peaks == sorted(peaks, reverse=True)
    assert figures["moe_over_dense_resident"].value > 0
    assert figures["moe_parameters"].value > figures["dense_parameters"].value


def test_the_full_size_never_runs_on_the_processor(benchmark: Any) -> None:
    with pytest.raises(SystemExit, match="--device cuda"):
        benchmark.measure("cpu", "full", 24.0, 1)


@pytest.mark.slow
def test_the_full_size_is_that_of_the_arithmetic(benchmark: Any) -> None:
    sizes = benchmark.sizes_of(
        lambda: benchmark.TagMoETransformer2DModel(**benchmark.DENSE["full"], **benchmark.MIXTURE["full"]), "moe", 64
    )
    assert sizes.transformer.parameters == 22_695_294_528
    assert (sizes.width, sizes.image_tokens, sizes.batch) == (3072, 8192, 2)


@pytest.mark.slow
def test_a_model_that_does_not_fit_says_so(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(benchmark, "run", refuse)
    figures = benchmark.measure("cpu", "tiny", 24.0, 1)
    assert {figure.name for figure in figures if figure.name.endswith("_fits")} == {f"{name}_fits" for name in NAMES}
    assert not any(figure.name.endswith("_peak") for figure in figures)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["8-bit", "4-bit"])
@torch.no_grad()
def test_layers_are_packed_as_when_a_folder_is_loaded(benchmark: Any, loaded: Any, form: str) -> None:
    """The random model and the loaded one hold the same classes, dtypes and bytes, and give the same numbers."""
    plan = next(plan for plan in PLANS if plan.name == form)
    full, packed = loaded("resident").transformer, loaded(form).transformer
    config = {k: v for k, v in full.config.items() if not k.startswith("_")}
    random = benchmark.build(lambda: type(full)(**config), plan, torch.device("cpu"))
    assert benchmark.held_bytes(random) == pytest.approx(benchmark.held_bytes(packed), rel=1e-3)
    kinds = [{n: type(m).__name__ for n, m in model.named_modules()} for model in (random, packed)]
    assert kinds[0] == kinds[1]
    name = "transformer_blocks.5.img_mlp.experts.1.net.0.proj"
    layer = deepcopy(full.get_submodule(name)).to(torch.bfloat16)
    ours, theirs = benchmark.packed(layer, form), deepcopy(packed.get_submodule(name))
    if form == "4-bit":
        benchmark.without_packed_kernel(ours)
    x = torch.randn(64, layer.in_features, dtype=torch.bfloat16)
    torch.testing.assert_close(ours(x), theirs(x), atol=0, rtol=0)
    assert read_sizes(packaged_folder()).transformer.parameters == sum(p.numel() for p in full.parameters())
