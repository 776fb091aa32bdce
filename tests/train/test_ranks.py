"""Training in several processes is training in one: the same losses and weights, however a batch is split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.rank_cases import launch, trained

from tagmoe.config import RunConfig

Make = Callable[..., RunConfig]
LOSS = {"lambda_lbl": 1.0, "lambda_align": 1.0}
TERMS = ("flow", "balance", "alignment", "grad_norm")


def case(config: Make, name: str, batch: int, accumulate: int = 1, steps: int = 5, **changes: Any) -> RunConfig:
    """A few steps of batches without near-ties."""
    stage = {"steps": steps, "batch": batch, "accumulate": accumulate, "text_to_image_every": 3}
    settings: dict[str, Any] = {"optimizer": {"name": "adamw", "lr": 1e-3}, "loss": LOSS, "moe": {"num_moe_blocks": 2}}
    settings["transformer"] = {"num_layers": 3}
    return config(name, unified=stage, **(settings | changes))


def assert_same(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-5) -> None:
    for step, (here, there) in enumerate(zip(found["report"], expected["report"], strict=True)):
        for name in TERMS:
            assert here[name] == pytest.approx(there[name], rel=rtol, abs=2e-6), f"{name} at step {step}"
    assert found["average"].keys() == expected["average"].keys()
    for name, value in expected["average"].items():
        distance = (found["average"][name] - value).norm() / value.norm().clamp_min(1e-6)
        assert distance <= rtol, f"{name}: {distance:.1e}"


def test_two_ranks_train_as_one(config: Make, tmp_path: Path) -> None:
    """One rank's samples lack tags, and one of the experts."""
    few: dict[str, Any] = {"steps": 3, "transformer": {"num_layers": 2}}
    found = launch(tmp_path / "ranks", {"lacking": case(config, "lacking", 4, **few)}, 2, lacking="lacking")
    assert_same(found["lacking"], trained(case(config, "one", 4, **few), special="lacking"))
    assert found["lacking"]["model"] == "TagMoETransformer2DModel"
    terms = [[step[name] for name in ("flow", "balance", "alignment")] for step in found["lacking"]["report"]]
    assert len({tuple(step) for step in terms}) == 3
    assert any(step[1] != 1 for step in terms), "the balance loss has a gradient"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_micro_batches_may_be_shared_by_ranks(config: Make, tmp_path: Path) -> None:
    """1 rank x 4 micro-batches = 2 ranks x 2."""
    found = launch(tmp_path / "ranks", {"small": case(config, "small", 4, 2)}, 2)
    assert_same(found["small"], trained(case(config, "one", 2, 4)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_way_to_split_a_batch_is_the_same_training(config: Make, tmp_path: Path) -> None:
    """2 ranks x 1, a rank without samples, 3 ranks with uneven parts of the weights, and HSDP."""
    expected = trained(case(config, "one", 3, 4))
    cases = {"whole": case(config, "two", 12), "copies": case(config, "copies", 12, replicate=2)}
    found = launch(tmp_path / "two", {**cases, "single": case(config, "single", 4)}, 2, single="single")
    for name in cases:
        assert_same(found[name], expected)
    assert_same(found["single"], trained(case(config, "single-one", 4), special="single"))
    three = launch(tmp_path / "three", {"uneven": case(config, "three", 6, 2)}, 3)
    assert_same(three["uneven"], expected)
    mesh = launch(tmp_path / "four", {"mesh": case(config, "four", 12, replicate=2)}, 4)
    assert_same(mesh["mesh"], expected)


ENGINES: dict[str, dict[str, Any]] = {
    "moe": {"parameters": "moe"},
    "lora": {"parameters": "lora", "lora": {"rank": 3}},
    "8bit-states": {"optimizer": {"name": "adamw", "lr": 1e-3, "states": "8bit"}},
    "bf16-states": {"optimizer": {"name": "adamw", "lr": 1e-3, "states": "bf16"}},
    "offloaded": {"optimizer": {"name": "adamw", "lr": 1e-3, "ema_offload": True}},
    "recomputed": {"activation_checkpointing": True},
    "target": {"loss": {**LOSS, "routing_tokens": "target"}},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_trains_and_how_is_the_same_in_two_ranks(config: Make, tmp_path: Path) -> None:
    cases = {name: case(config, name, 4, **changes) for name, changes in ENGINES.items()}
    found = launch(tmp_path / "ranks", cases, 2)
    for name, changes in ENGINES.items():
        # A moment that is one rounding of bf16, or one of 256 numbers, apart moves its weight by as much.
        rtol = {"bf16-states": 1e-4, "8bit-states": 1e-3}.get(name, 1e-5)
        assert_same(found[name], trained(case(config, f"{name}-one", 4, **changes)), rtol)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_bf16_in_two_ranks_is_near_bf16_in_one(config: Make, tmp_path: Path) -> None:
    """The gate reads fp32 weights: the loads of the experts differ by few tokens."""
    expected = trained(case(config, "one", 4, precision="bf16"))
    found = launch(tmp_path / "ranks", {"bf16": case(config, "bf16", 4, precision="bf16")}, 2)["bf16"]
    for here, there in zip(found["report"], expected["report"], strict=True):
        assert here["flow"] == pytest.approx(there["flow"], rel=2e-2)
        assert here["balance"] == pytest.approx(there["balance"], rel=2e-2)
    assert all(value.dtype == torch.float32 for value in found["average"].values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_recomputed_and_compiled_blocks_give_the_losses_of_plain_ones(config: Make) -> None:
    plain = trained(case(config, "plain", 4))
    again = trained(case(config, "again", 4, activation_checkpointing=True))
    for here, there in zip(again["report"], plain["report"], strict=True):
        assert here | {"seconds": 0} == there | {"seconds": 0}
    assert again["load"] == plain["load"], "a recompute counts no token twice"
    assert all(torch.equal(again["average"][name], value) for name, value in plain["average"].items())
    for name, recomputed in (("compiled", False), ("both", True)):
        compiled = trained(case(config, name, 4, compile=True, activation_checkpointing=recomputed))
        for here, there in zip(compiled["report"], plain["report"], strict=True):
            assert here["flow"] == pytest.approx(there["flow"], rel=1e-5, abs=1e-6)
