"""Optimizers and their learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tagmoe.config import OptimizerConfig


def make_optimizers(modules: Mapping[str, nn.Module], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else; or AdamW alone.

    Muon orthogonalises each update, which suits hidden matrices; embeddings, gates' last layers, heads and vectors are
    not such. A pilot needed about half the samples for the same flow loss (docs/log.md).
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            inside_block = "transformer_blocks." in name and ".gate." not in name
            (matrices if config.name == "muon" and inside_block and parameter.ndim == 2 else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    if rest:
        optimizers.append(
            torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(step: int, total: int, config: OptimizerConfig) -> float:
    """Share of the peak rate at `step` of `total`: linear warm-up, constant, linear decay to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay_steps = max(1, round(total * config.decay_share))
    return min(1.0, max(0.0, (total - step) / decay_steps))


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
