"""Training in several processes is training in one: the same losses and weights, however a batch is split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rank_cases import launch, trained

from tagmoe.config import RunConfig

Make = Callable[..., RunConfig]
LOSS = {"lambda_lbl": 1.0, "lambda_align": 1.0}
TERMS = ("flow", "balance", "alignment", "grad_norm")


def case(config: Make, name: str, batch: int, accumulate: int = 1, **changes: Any) -> RunConfig:
    """Five steps of batches without near-ties."""
    stage = {"steps": 5, "batch": batch, "accumulate": accumulate, "text_to_image_every": 3}
    settings: dict[str, Any] = {"optimizer": {"name": "adamw", "lr": 1e-3}, "loss": LOSS, "moe": {"num_moe_blocks": 2}}
    settings["transformer"] = {"num_layers": 3}
    return config(name, unified=stage, **(settings | changes))


def assert_same(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-5) -> None:
    for step, (here, there) in enumerate(zip(found["report"], expected["report"], strict=True)):
        for name in TERMS:
            assert here[name] == pytest.approx(there[name], rel=rtol, abs=1e-6), f"{name} at step {step}"
    assert found["average"].keys() == expected["average"].keys()
    for name, value in expected["average"].items():
        distance = (found["average"][name] - value).norm() / value.norm().clamp_min(1e-6)
        assert distance <= rtol, f"{name}: {distance:.1e}"


def test_two_ranks_train_as_one(config: Make, tmp_path: Path) -> None:
    """1 x 4 micro-batches = 2 ranks = 2 ranks x 2 micro-batches, and ranks that lack tags, samples or an expert."""
    expected = trained(case(config, "one", 2, 4))
    assert expected["report"][-1]["flow"] != expected["report"][1]["flow"]
    special = {"untagged": "untagged", "single": "single", "closed": "without_expert_0"}
    cases = {
        "large": case(config, "large", 8),
        "small": case(config, "small", 4, 2),
        **{name: case(config, name, 4) for name in special},
    }
    found = launch(tmp_path / "ranks", cases, 2, **special)
    for name in ("large", "small"):
        assert_same(found[name], expected)
        assert found[name]["model"] == "TagMoETransformer2DModel"
    for name, kind in special.items():
        assert_same(found[name], trained(case(config, f"{name}-one", 4), special=kind))
