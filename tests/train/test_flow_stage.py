"""Eq. (5) on a batch: accumulation is exact, gates are reached, bf16 and compiled training work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training_runs import make_stage

from tagmoe.config import RunConfig
from tagmoe.train.batch import Batch
from tagmoe.train.loop import autocast, resolve_precision
from tagmoe.train.stage import FlowStage


def rows(batch: Batch, start: int, end: int) -> Batch:
    """Some samples of a batch."""
    part = slice(start, end)
    return replace(
        batch,
        samples=batch.samples[part],
        target_BTC=batch.target_BTC[part],
        reference_BTC=None if batch.reference_BTC is None else batch.reference_BTC[part],
        text_BSD=batch.text_BSD[part],
        mask_BS=batch.mask_BS[part],
        tags_BK=batch.tags_BK[part],
        edited_BT=batch.edited_BT[part],
    )


def gradients(stage: FlowStage, step: int) -> dict[str, torch.Tensor]:
    """Gradients of one step, as the loop makes them."""
    for micro in range(stage.accumulate):
        loss, _ = stage.loss(step, micro)
        (loss / stage.accumulate).backward()
    named = [pair for module in stage.modules.values() for pair in module.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_four_micro_batches_equal_one_batch(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    losses = {"lambda_lbl": 1.0, "lambda_align": 1.0}
    big = make_stage(config(unified={"batch": 16}, loss=losses), tmp_path)
    small = make_stage(config(unified={"batch": 4, "accumulate": 4}, loss=losses), tmp_path)
    batch, noise, t = big.draw(1, 0)

    def part(step: int, micro: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        start, end = 4 * micro, 4 * micro + 4
        return rows(batch, start, end), noise[start:end], t[start:end]

    small.draw = part  # type: ignore[method-assign]
    expected, actual = gradients(big, 1), gradients(small, 1)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_micro_batches_take_the_samples_of_the_batch(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    big = make_stage(config(unified={"batch": 16}), tmp_path)
    small = make_stage(config(unified={"batch": 4, "accumulate": 4}), tmp_path)
    for step in (0, 1, 2, 3, 5):
        whole = [drawn.index for drawn in big.draw(step, 0)[0].samples]
        parts = [drawn.index for micro in range(4) for drawn in small.draw(step, micro)[0].samples]
        assert parts == whole


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_balance_and_alignment_reach_every_gate(
    precision: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    stage = make_stage(config(loss={"tag_embedding": "learned"}), tmp_path)
    with autocast(precision):
        loss, report = stage.loss(1, 0)
    loss.backward()
    gates = {name: p.grad for name, p in stage.transformer.named_parameters() if ".gate." in name}
    assert len(gates) == 4
    for name, grad in gates.items():
        assert grad is not None, name
        assert grad.abs().sum() > 0, name
    assert report["balance"] >= 0.9
    assert stage.objective.tag_embedding.weight.grad is not None


def test_the_weight_of_edited_tokens_counts(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    plain = make_stage(config(), tmp_path)
    weighted = make_stage(config(loss={"edit_weight": 3.0}), tmp_path)
    assert weighted.loss(1, 0)[1]["flow"] > plain.loss(1, 0)[1]["flow"]
    assert weighted.loss(0, 0)[1]["flow"] == plain.loss(0, 0)[1]["flow"]  # text to image: all of it is new


def test_auto_precision_is_one_of_two() -> None:
    assert resolve_precision("auto") in ("fp32", "bf16")
    assert [resolve_precision(name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_bf16_training_resumes_bit_for_bit_and_other_precisions_are_refused(
    config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    run = config(precision="bf16", tensorboard=True, base={"steps": 1}, unified={"steps": 3})
    model = run_training(run)
    before = (model / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    again = run_training(run, resume=True)
    assert (again / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    events = list((Path(run.output_dir) / "tensorboard").glob("*/events.*"))
    assert {path.parent.name for path in events} == {"base", "unified"}


@pytest.mark.slow
def test_compiled_training_gives_the_loss_of_eager_training(
    config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    import json

    logs = []
    for name, compiled in (("eager", False), ("compiled", True)):
        run = config(name, compile=compiled)
        run_training(run)
        lines = (Path(run.output_dir) / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["flow"] for line in lines])
    assert logs[1] == pytest.approx(logs[0], rel=1e-3)
