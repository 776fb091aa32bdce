"""What the loop does with losses, rates and averages."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from tagmoe.config import OptimizerConfig, RunConfig
from tagmoe.errors import TrainingError
from tagmoe.losses.objective import Objective
from tagmoe.train.checkpoint import list_checkpoints
from tagmoe.train.loop import averaged_weights
from tagmoe.train.optimizer import learning_rate_factor, make_optimizers


@pytest.mark.slow
def test_nan_stops_with_the_step_and_the_last_good_checkpoint(
    config: Callable[..., RunConfig], run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(base={"steps": 0}, unified={"steps": 3}, save_every=1)
    original, calls = Objective.forward, [0]

    def poisoned(self: Objective, prediction: torch.Tensor, *rest: object, **named: object) -> object:
        calls[0] += 1
        return original(self, prediction * float("nan") if calls[0] == 3 else prediction, *rest, **named)

    monkeypatch.setattr(Objective, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"unified: .*step 3, .*checkpoints/unified/00000002"):
        run_training(run)
    monkeypatch.undo()
    assert run_training(run, resume=True).is_dir()


def test_rates_warm_up_hold_and_fall_to_zero() -> None:
    settings = OptimizerConfig(warmup_steps=10, decay_share=0.5)
    factors = [learning_rate_factor(step, 100, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:51] == [1.0] * 42
    assert all(a > b for a, b in pairwise(factors[50:]))
    assert factors[100] == 0.0


def test_muon_gets_block_matrices_and_adamw_the_rest() -> None:
    block = nn.ModuleDict({"attn": nn.Linear(4, 4), "gate": nn.Linear(4, 2)})
    model = nn.ModuleDict({"img_in": nn.Linear(3, 4), "transformer_blocks": nn.ModuleList([block])})
    muon, adamw = make_optimizers({"transformer": model}, OptimizerConfig())
    assert [tuple(p.shape) for g in muon.param_groups for p in g["params"]] == [(4, 4)]
    owned = {id(p) for optimizer in (muon, adamw) for g in optimizer.param_groups for p in g["params"]}
    assert owned == {id(p) for p in model.parameters()}
    assert len(make_optimizers({"transformer": model}, OptimizerConfig(name="adamw"))) == 1


def test_averaged_weights_are_put_in_and_taken_out() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    average = {f"m.{name}": torch.full_like(value, 7.0) for name, value in model.state_dict().items()}
    with averaged_weights({"m": model}, average):
        assert bool((model.weight == 7).all())
    assert torch.equal(model.weight, before)


def test_the_loss_falls_and_every_term_is_logged(
    config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    run = config(
        base={"steps": 2}, unified={"steps": 45, "batch": 8, "unique_samples": 8}, save_every=100, seed=3,
        optimizer={"lr": 5e-3, "muon_lr": 2e-2},
    )  # fmt: skip
    run_training(run)
    lines = [json.loads(line) for line in (Path(run.output_dir) / "metrics.jsonl").read_text().splitlines()]
    unified = [line for line in lines if line["stage"] == "unified"]
    assert {"flow", "balance", "alignment", "grad_norm", "seconds", "tags/effective_rank"} <= unified[0].keys()
    edits = [line for line in unified if line["step"] % 3 != 1]
    first, last = (sum(line["flow"] for line in part) / 8 for part in (edits[:8], edits[-8:]))
    assert last < 0.8 * first
    assert unified[-1]["alignment"] < unified[0]["alignment"]


@pytest.mark.slow
def test_checkpoints_are_limited_in_number(config: Callable[..., RunConfig], run_training: Callable[..., Path]) -> None:
    run = config(base={"steps": 0}, unified={"steps": 3}, save_every=1, keep_checkpoints=2)
    run_training(run)
    names = [path.name for path in list_checkpoints(Path(run.output_dir) / "checkpoints" / "unified")]
    assert names == ["00000002", "00000003"]
