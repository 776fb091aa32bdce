"""AdamW in fewer bytes: the same update, what a checkpoint keeps of it, and where it cannot work; the schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tagmoe.config import OptimizerConfig, RunConfig
from tagmoe.errors import ConfigError
from tagmoe.train.adamw import AdamWByParameter, check_processes
from tagmoe.train.checkpoint import list_checkpoints, optimizer_tensors, restore_optimizers
from tagmoe.train.optimizer import learning_rate_factor, make_optimizers

RunTraining = Callable[..., Path]
SIZES = (80, 96)


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(*SIZES)


def steps(model: nn.Linear, optimizer: torch.optim.Optimizer, count: int, first: int = 0) -> list[float]:
    """Losses of so many steps towards a fixed linear map."""
    generator = torch.Generator().manual_seed(7)
    wanted = 0.1 * torch.randn(SIZES[1], SIZES[0], generator=generator)
    losses = []
    for step in range(first, first + count):
        generator.manual_seed(step)
        x = torch.randn(32, SIZES[0], generator=generator)
        loss = (model(x) - x @ wanted.T).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def made(**settings: Any) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = layer()
    (optimizer,) = make_optimizers({"m": model}, OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.1, **settings))
    return model, optimizer


def test_with_fp32_moments_it_is_torchs() -> None:
    torchs, optimizer = made()
    steps(torchs, optimizer, 20)
    own = layer()
    groups = [{"params": list(own.parameters())}]
    steps(own, AdamWByParameter(groups, lr=1e-2, weight_decay=0.1, states=torch.float32), 20)
    torch.testing.assert_close(own.weight, torchs.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"states": "bf16"}, {"states": "8bit"}, {"gradients": "bf16"},
                                      {"states": "8bit", "gradients": "bf16"}])  # fmt: skip
def test_fewer_bytes_train_as_well_and_resume_to_the_bit(settings: dict[str, Any]) -> None:
    plain, optimizer = made()
    reference = steps(plain, optimizer, 60)
    model, optimizer = made(**settings)
    losses = steps(model, optimizer, 30)
    kept = {name: value.clone() for name, value in optimizer_tensors([optimizer]).items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    losses += steps(model, optimizer, 30, first=30)
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] == pytest.approx(reference[-1], rel=0.05)
    again, other = made(**settings)
    again.load_state_dict(weights)
    restore_optimizers([other], kept)
    steps(again, other, 30, first=30)
    assert torch.equal(again.weight, model.weight)
    assert model.weight.dtype == torch.float32


def test_moments_have_the_dtype_that_was_asked_for() -> None:
    kinds = {}
    for states in ("fp32", "bf16", "8bit"):
        model, optimizer = made(states=states)
        steps(model, optimizer, 1)
        kinds[states] = {
            value.dtype
            for value in optimizer.state[model.weight].values()
            if torch.is_tensor(value) and value.numel() == model.weight.numel()
        }
    assert kinds == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}, "8bit": {torch.uint8}}


def test_gradients_in_bf16_are_the_rounded_ones() -> None:
    plain, _ = made()
    rounded, _ = made(gradients="bf16")
    x = torch.randn(8, SIZES[0])
    for model in (plain, rounded):
        model(x).square().sum().backward()
    assert plain.weight.grad is not None
    assert rounded.weight.grad is not None
    assert rounded.weight.grad.dtype == torch.bfloat16
    assert torch.equal(rounded.weight.grad, plain.weight.grad.bfloat16())
    total = nn.utils.clip_grad_norm_(rounded.parameters(), 1.0)
    assert float(total) > 1
    assert float(nn.utils.get_total_norm([p.grad for p in rounded.parameters()])) == pytest.approx(1, rel=0.01)


def test_what_one_process_alone_can_do_is_refused_in_several() -> None:
    check_processes(OptimizerConfig(), 1)
    for states in ("bf16", "8bit"):
        check_processes(OptimizerConfig(name="adamw", states=states), 2)
    with pytest.raises(ConfigError, match="'muon'"):
        check_processes(OptimizerConfig(), 2)


def test_moments_in_8_bits_do_not_depend_on_who_keeps_the_rows() -> None:
    """The last 20 of 40 rows by themselves have the moments that they have among the others."""
    wide = nn.Parameter(torch.randn(40, 300))
    (wider,) = make_optimizers({"m": nn.ParameterDict({"w": wide})}, OptimizerConfig(name="adamw", states="8bit"))
    part = nn.Parameter(wide.detach()[20:].clone())
    (parts,) = make_optimizers({"m": nn.ParameterDict({"w": part})}, OptimizerConfig(name="adamw", states="8bit"))
    for step in range(3):
        torch.manual_seed(step)
        wide.grad = torch.randn(40, 300)
        part.grad = wide.grad[20:].clone()
        wider.step()
        parts.step()
    assert torch.equal(wide[20:], part)
    for name, value in parts.state[part].items():
        assert name == "step" or torch.equal(wider.state[wide][name][20:], value), name
    assert wider.state[wide]["exp_avg"].dtype == torch.uint8


def test_a_run_in_several_processes_is_refused_before_its_folder_is_made(
    config: Callable[..., RunConfig], run_training: RunTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = config()
    with pytest.raises(ConfigError, match="muon"):
        run_training(run)
    assert not Path(run.output_dir).exists()


def test_cosine_falls_by_half_a_cosine_and_constant_stays() -> None:
    cosine = OptimizerConfig(warmup_steps=10, schedule="cosine")
    factors = [learning_rate_factor(step, 110, cosine) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[35] == pytest.approx((1 + 0.5**0.5) / 2)
    assert factors[110] == pytest.approx(0.0)
    constant = OptimizerConfig(warmup_steps=4, schedule="constant")
    assert [learning_rate_factor(step, 9, constant) for step in range(9)] == [0.25, 0.5, 0.75, *[1.0] * 6]


def test_an_average_on_the_host_is_the_same(config: Callable[..., RunConfig], run_training: RunTraining) -> None:
    averages = []
    for offloaded in (False, True):
        run = config(f"run-{offloaded}", base={"steps": 0}, unified={"steps": 3}, optimizer={"ema_offload": offloaded})
        run_training(run)
        last = list_checkpoints(Path(run.output_dir) / "checkpoints" / "unified")[-1]
        averages.append(load_file(last / "ema.safetensors"))
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


@pytest.mark.slow
@pytest.mark.parametrize("states", ["bf16", "8bit"])
def test_a_run_resumes_to_the_bit(states: str, config: Callable[..., RunConfig], run_training: RunTraining) -> None:
    optimizer = {"name": "adamw", "states": states, "gradients": "bf16", "warmup_steps": 2}
    changes = {"base": {"steps": 0}, "unified": {"steps": 4}, "optimizer": optimizer, "save_every": 2}
    whole, stopped = config("whole", **changes), config("stopped", **changes, keep_checkpoints=5)
    folders = [run_training(whole), run_training(stopped)]
    for file in list_checkpoints(Path(stopped.output_dir) / "checkpoints" / "unified")[-1].iterdir():
        file.unlink()
    folders[1] = run_training(stopped, resume=True)
    first, second = (load_file(f / "transformer" / "diffusion_pytorch_model.safetensors") for f in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
