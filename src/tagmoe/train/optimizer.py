"""Optimizers and their learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr

from tagmoe.config import OptimizerConfig
from tagmoe.model.cpu.bf16 import has_bf16
from tagmoe.sentences import counted
from tagmoe.train.adamw import (
    BETAS,
    AdamWByParameter,
    AdamWIn8Bits,
    blocks_of,
    keep_gradients_in,
    takes_8bit,
)


class MuonFp32(torch.optim.Muon):
    """torch's Muon with its Newton-Schulz iteration in fp32. State and settings are the same.

    torch iterates in bf16, which a processor without bf16 arithmetic emulates. That took 5 of the 6 seconds of a
    TagWorld step (docs/log.md).
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state, momentum = parameter.grad, self.state[parameter], group["momentum"]
        assert gradient is not None
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape))


def orthogonalise(matrix: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """A matrix with the same singular vectors whose singular values are near 1, by Newton-Schulz in fp32."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def make_optimizers(modules: Mapping[str, nn.Module], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else; or AdamW alone.

    Muon orthogonalises each update. That suits hidden matrices, but not embeddings, gates' last layers, heads and
    vectors. A pilot run with Muon needed about half the samples for the same flow loss (docs/log.md).
    """
    matrices: dict[float, list[nn.Parameter]] = {}
    rest: dict[float, list[nn.Parameter]] = {}
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            kind = matrices if takes_muon(name, parameter, config) else rest
            kind.setdefault(_rate(name, config), []).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        groups = _groups(matrices, config.muon_lr)
        muon = torch.optim.Muon if has_bf16() or groups[0]["params"][0].is_cuda else MuonFp32
        optimizers.append(
            muon(groups, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    if rest:
        optimizers.append(_adamw(_groups(rest, config.lr), config))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def takes_muon(name: str, parameter: Tensor, config: OptimizerConfig) -> bool:
    """Whether Muon updates this parameter, and not AdamW."""
    inside_block = "transformer_blocks." in name and ".gate." not in name
    return config.name == "muon" and inside_block and parameter.ndim == 2


def state_bytes(name: str, parameter: Tensor, config: OptimizerConfig) -> int:
    """Bytes of the optimizer's state of a parameter: Muon's momentum, or AdamW's two moments. Without step counters."""
    count = parameter.numel()
    if takes_muon(name, parameter, config):
        return 4 * count
    if config.states == "8bit" and takes_8bit(parameter):
        return 2 * count + 2 * 4 * len(parameter) * blocks_of(parameter)
    return (4 if config.states == "bf16" else 8) * count


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW with moments and gradients of the wanted dtypes. torch's own where both are fp32."""
    if config.gradients == "bf16":
        keep_gradients_in(torch.bfloat16, (p for group in groups for p in group["params"]))
    if config.states == "8bit":
        return AdamWIn8Bits(groups, lr=config.lr, weight_decay=config.weight_decay)
    if config.states == "bf16" or config.gradients == "bf16":
        states = torch.bfloat16 if config.states == "bf16" else torch.float32
        return AdamWByParameter(groups, lr=config.lr, weight_decay=config.weight_decay, states=states)
    return torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, fused=True)


def _rate(name: str, config: OptimizerConfig) -> float:
    """The learning rate of a parameter as a multiple of that of others of its kind."""
    return config.gate_rate if ".gate." in name else config.expert_rate if ".experts." in name else 1.0


def _groups(by_rate: Mapping[float, list[nn.Parameter]], lr: float) -> list[dict[str, Any]]:
    return [{"params": parameters, "lr": lr * rate} for rate, parameters in by_rate.items()]


def learning_rate_factor(step: int, total: int, config: OptimizerConfig) -> float:
    """The learning rate at `step` of `total` as a share of the peak: linear warm-up, then by `config.schedule`.

    wsd: constant, then linear decay to 0. Where it overlaps with the warm-up, the lower one counts, so that every stage
    ends near 0. cosine: half a cosine from the end of the warm-up to 0 at `total`. constant: the peak.
    """
    warm_up = (step + 1) / max(1, config.warmup_steps)
    if config.schedule == "constant":
        return min(1.0, warm_up)
    if config.schedule == "cosine":
        after = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return min(1.0, warm_up, (1 + math.cos(math.pi * min(1.0, max(0.0, after)))) / 2)
    decay_steps = max(1, round(total * config.decay_share))
    return max(0.0, min(1.0, warm_up, (total - step) / decay_steps))


def short_warm_up(name: str, total: int, config: OptimizerConfig) -> str | None:
    """A sentence for a stage that never reaches its peak learning rate; None for any other."""
    peak = max((learning_rate_factor(step, total, config) for step in range(total)), default=1.0)
    if peak == 1.0:
        return None
    return (
        f"{name}: with optimizer.warmup_steps {config.warmup_steps} and {counted(total, 'step')}, the learning rate "
        "reaches "
        f"{peak:.0%} of its peak at most."
    )


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
