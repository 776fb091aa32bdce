"""Eq. (5) on a batch: accumulation is exact, gates are reached, bf16 and compiled training work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import current_thread

import pytest
import torch
from support.training_runs import make_stage

from tagmoe.config import RunConfig
from tagmoe.train.precision import autocast, resolve_precision
from tagmoe.train.stage import FlowStage


def gradients(stage: FlowStage, step: int) -> dict[str, torch.Tensor]:
    """Gradients of one step, as the loop makes them."""
    for micro in range(stage.accumulate):
        loss, _ = stage.loss(step, micro)
        (loss / stage.accumulate).backward()
    named = [pair for module in stage.modules.values() for pair in module.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_four_micro_batches_equal_one_batch(config: Callable[..., RunConfig], latents: str) -> None:
    losses = {"lambda_lbl": 1.0, "lambda_align": 1.0}
    big = make_stage(config(unified={"batch": 16}, loss=losses), Path(latents))
    small = make_stage(config(unified={"batch": 4, "accumulate": 4}, loss=losses), Path(latents))
    expected, actual = gradients(big, 1), gradients(small, 1)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_micro_batches_take_samples_noise_and_times_of_the_batch(
    config: Callable[..., RunConfig], latents: str
) -> None:
    big = make_stage(config(unified={"batch": 16}), Path(latents))
    small = make_stage(config(unified={"batch": 4, "accumulate": 4}), Path(latents))
    for step in (0, 1, 2, 3, 5):
        batch, noise_BTC, t_B = big.draw(step, 0)
        parts = [small.draw(step, micro) for micro in range(4)]
        assert [drawn.index for part, _, _ in parts for drawn in part.samples] == [d.index for d in batch.samples]
        assert torch.equal(torch.cat([part for _, part, _ in parts]), noise_BTC)
        assert torch.equal(torch.cat([part for _, _, part in parts]), t_B)
    assert not torch.equal(big.draw(1, 0)[1], big.draw(2, 0)[1])


def test_the_load_is_that_of_the_last_step_of_its_kind(config: Callable[..., RunConfig], latents: str) -> None:
    stage = make_stage(config(unified={"batch": 4, "accumulate": 2, "text_to_image_every": 2}), Path(latents))
    uniform = stage._load.of("edit")
    assert (uniform == 1).all()
    loads = []
    for step in range(4):  # generate, edit, generate, edit
        before = {kind: stage._load.of(kind) for kind in ("generate", "edit")}
        stage.loss(step, 0)
        assert all(torch.equal(stage._load.of(kind), load) for kind, load in before.items())  # not before the step ends
        stage.loss(step, 1)
        kind, other = ("edit", "generate") if step % 2 else ("generate", "edit")
        assert torch.equal(stage._load.of(other), before[other])
        assert torch.allclose(stage._load.of(kind).sum(dim=-1), torch.tensor(8.0))  # a load of one a sample
        loads.append(stage._load.of(kind))
    resumed = make_stage(config(unified={"batch": 4, "accumulate": 2, "text_to_image_every": 2}), Path(latents))
    resumed.restore(json.loads(json.dumps(stage.state(4))), 4)
    assert torch.equal(resumed._load.of("generate"), loads[2])
    assert torch.equal(resumed._load.of("edit"), loads[3])


@pytest.mark.slow
def test_every_batch_is_drawn_once_on_one_thread(
    config: Callable[..., RunConfig], latents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(config(unified={"batch": 4, "accumulate": 3, "steps": 4}), Path(latents))
    drawn: list[tuple[int, int, str]] = []
    draw = stage.draw
    monkeypatch.setattr(
        stage, "draw", lambda step, micro: (drawn.append((step, micro, current_thread().name)), draw(step, micro))[1]
    )
    for step in range(4):
        gradients(stage, step)
    assert [(step, micro) for step, micro, _ in drawn] == [(step, micro) for step in range(4) for micro in range(3)]
    assert len({thread for _, _, thread in drawn}) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_balance_and_alignment_reach_every_gate(precision: str, config: Callable[..., RunConfig], latents: str) -> None:
    stage = make_stage(config(loss={"tag_embedding": "learned"}), Path(latents))
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


@pytest.mark.slow
def test_the_weight_of_edited_tokens_counts(config: Callable[..., RunConfig], latents: str) -> None:
    plain = make_stage(config(), Path(latents))
    weighted = make_stage(config(loss={"edit_weight": 3.0}), Path(latents))
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
