"""Every way of keeping a model draws the same picture, within the tolerance that its plan states."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagmoe.errors import MissingError, UsageError
from tagmoe.pipeline.memory.plans import PLANS, TILING_TOLERANCE, WEIGHT_TOLERANCE

BY_NAME = {plan.name: plan for plan in PLANS}


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of a pixel, of 255."""
    return float(np.abs(first - second).mean())


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "plan",
    [
        # the other plans hold each of their ways already
        pytest.param(plan, marks=[pytest.mark.slow] if plan.name in ("4-bit", "8-bit", "component-offload") else [])
        for plan in PLANS[1:]
    ],
    ids=lambda plan: plan.name,
)
def test_a_plan_draws_within_its_tolerance(kept: Any, draw: Any, resident_pictures: np.ndarray, plan: Any) -> None:
    pipeline = kept(plan.name)
    drawn = draw(pipeline)
    found = difference(drawn, resident_pictures)
    # The pictures are smaller than a tile, so that tiling adds nothing here and only the weights count.
    assert found <= WEIGHT_TOLERANCE[plan.transformer] <= plan.tolerance
    assert (found > 0) == plan.is_quantised
    # A second call meets the components where the first one left them.
    assert difference(draw(pipeline, count=1), drawn[:1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["reversed", *(pytest.param(d, marks=pytest.mark.slow) for d in ("zero", "scaled"))])
@torch.no_grad()
def test_broken_experts_would_exceed_the_tolerance(
    kept: Any, draw: Any, resident_pictures: np.ndarray, damage: str
) -> None:
    """The control: what a wrong order, lost weights or wrong scales of quantised experts would look like."""
    pipeline = kept("resident")
    for block in pipeline.transformer.transformer_blocks[-3:]:
        if damage == "reversed":
            block.img_mlp.experts = torch.nn.ModuleList(list(block.img_mlp.experts)[::-1])
        for expert in block.img_mlp.experts:
            expert.net[2].weight.mul_({"reversed": 1, "zero": 0, "scaled": 3}[damage])
    assert difference(draw(pipeline), resident_pictures) > 1.5 * WEIGHT_TOLERANCE["4-bit"]


@pytest.mark.slow
def test_group_offload_to_files_draws_the_same(
    kept: Any, draw: Any, resident_pictures: np.ndarray, tmp_path: Path
) -> None:
    pipeline = kept("group-offload", offload_folder=tmp_path / "weights")
    assert difference(draw(pipeline), resident_pictures) == 0
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {"transformer", "text_encoder"}
    with pytest.raises(UsageError, match="not empty"):
        kept("group-offload", offload_folder=tmp_path / "weights")
    with pytest.raises(UsageError, match="offloads nothing to a folder"):
        kept("resident", offload_folder=tmp_path / "other")


@pytest.mark.slow
def test_tiles_are_joined_within_their_tolerance(kept: Any) -> None:
    from tagmoe.world import sample

    scenes = [np.asarray(sample(1, index, task="recolour").sources[0]) for index in range(25)]
    mosaic = np.concatenate([np.concatenate(scenes[row : row + 5], axis=1) for row in range(0, 25, 5)])
    pixels = torch.from_numpy(mosaic).permute(2, 0, 1)[None].float() / 127.5 - 1
    pipeline = kept("resident")

    def back(shift: int = 0) -> np.ndarray:
        latents = pipeline.encode_images(pixels).roll(shift, dims=-1)
        return (pipeline.decode(latents).clamp(-1, 1) * 127.5).numpy()

    whole = back()
    pipeline.vae.enable_tiling()
    assert 0 < difference(back(), whole) < TILING_TOLERANCE
    # The control: tiles laid one latent beside their place.
    assert difference(back(shift=1), whole) > 2 * TILING_TOLERANCE


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", ["4-bit", "4-bit-component-offload"])
def test_a_plan_with_tiles_turns_them_on(loaded: Any, name: str) -> None:
    assert loaded(name).vae.use_tiling
    assert not loaded("resident").vae.use_tiling


@torch.no_grad()
def test_an_expert_without_tokens_gives_none(loaded: Any) -> None:
    from bitsandbytes.nn import Linear4bit

    for name in ("8-bit", "4-bit"):
        pipeline = loaded(name)
        expert = deepcopy(pipeline.transformer.transformer_blocks[-1].img_mlp.experts[0])
        # With the other kernel the next lines would kill the whole process.
        assert not any(
            module.support_avx512bf16_for_cpu
            for part in (pipeline.transformer, pipeline.text_encoder)
            for module in part.modules()
            if isinstance(module, Linear4bit)
        )
        assert expert(torch.zeros(0, 128, dtype=torch.bfloat16)).shape == (0, 128)
        assert expert(torch.ones(1, 128, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.slow
def test_without_the_library_the_install_line_is_named(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    for plan in PLANS:
        if plan.is_quantised:
            with pytest.raises(MissingError, match=r"pip install 'tagmoe\[memory\]'") as caught:
                kept(plan.name)
            assert caught.value.exit_code == 3
    kept("resident")


@pytest.mark.slow
def test_diffusers_is_left_as_it_was(kept: Any) -> None:
    from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer as Quantizer

    before = (Quantizer.validate_environment, Quantizer.update_device_map)
    kept("4-bit")
    assert (Quantizer.validate_environment, Quantizer.update_device_map) == before
