"""AdamW whose moments or gradients take fewer bytes: bf16 moments, 8-bit moments of bitsandbytes, bf16 gradients.

Weights and their update are fp32 in all of them. Each works on one parameter after the other, so that no second copy
of all gradients is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tagmoe.config import OptimizerConfig
from tagmoe.errors import ConfigError
from tagmoe.extras import require

SMALLEST_8BIT = 4096
"""A parameter of fewer numbers keeps fp32 moments (bitsandbytes' default)."""
BLOCK_8BIT = 256
"""Numbers that share one fp32 scale in bitsandbytes' 8-bit moments."""
BETAS = (0.9, 0.99)


class AdamWByParameter(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) with moments of any dtype, and gradients of any.

    The moments are read as fp32, updated, and rounded to nearest. In bf16 a second moment that should change by less
    than 0.2 to 0.4 % stays as it is; with beta_2 = 0.99 that is a squared gradient within 20 to 40 % of it.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, weight_decay: float, states: torch.dtype
    ) -> None:
        self.states = states
        super().__init__(groups, {"lr": lr, "betas": BETAS, "eps": 1e-8, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad.float()
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=self.states)
        state["step"] = step = int(state["step"]) + 1
        first, second = group["betas"]
        # Not in place: fp32 moments are the state itself, and an fp32 gradient the parameter's.
        mean = state["exp_avg"].float().lerp(gradient, 1 - first)
        square = state["exp_avg_sq"].float().lerp(gradient.square(), 1 - second)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        scale = square.sqrt_().div_(math.sqrt(1 - second**step)).add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**step))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts the moments to the dtype of the weights; here they get theirs back, which loses nothing."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["step"] = int(state["step"])
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(self.states)


def adamw_8bit(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW with 8-bit moments (blocks of 256 numbers with one scale), for one process.

    Raises MissingError without bitsandbytes.
    """
    require("memory", purpose="The setting 'optimizer.states: 8bit'")
    from bitsandbytes.optim import AdamW8bit

    class AdamWIn8Bits(AdamW8bit):  # type: ignore[misc]
        """Takes gradients of any dtype, and a checkpoint whose step is a tensor."""

        def update_step(self, group: Any, p: nn.Parameter, gindex: int, pindex: int) -> None:
            kept = p.grad
            assert kept is not None
            if kept.dtype == p.dtype:
                super().update_step(group, p, gindex, pindex)
                return
            p.grad, p.grad_dtype = None, None  # type: ignore[attr-defined]
            p.grad = kept.to(p.dtype)
            super().update_step(group, p, gindex, pindex)
            p.grad, p.grad_dtype = None, kept.dtype  # type: ignore[attr-defined]
            p.grad = kept

        def state_dict(self) -> dict[str, Any]:
            """torch's: that of bitsandbytes nests the tensors, and a checkpoint is flat."""
            return torch.optim.Optimizer.state_dict(self)

        def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            super().load_state_dict(state_dict, *args, **kwargs)
            for state in self.state.values():
                state["step"] = int(state["step"])

    optimizer: torch.optim.Optimizer = AdamWIn8Bits(
        groups, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, min_8bit_size=SMALLEST_8BIT
    )
    return optimizer


def keep_gradients_in(dtype: torch.dtype, parameters: Iterable[nn.Parameter]) -> None:
    """Let autograd round each gradient to this dtype as it arrives. Micro-batches are summed in it too."""
    for parameter in parameters:
        parameter.grad_dtype = dtype  # type: ignore[attr-defined]


def check_processes(config: OptimizerConfig, count: int) -> None:
    """Raise ConfigError for an optimizer that cannot work in so many processes."""
    if count == 1:
        return
    if config.name == "muon":
        raise ConfigError(
            f"The setting 'optimizer.name' is 'muon', which needs whole matrices, but {count} processes share them; "
            "set it to 'adamw', or train in one process."
        )
    if config.states == "8bit":
        raise ConfigError(
            f"The setting 'optimizer.states' is '8bit', which bitsandbytes keeps in one process alone, but {count} "
            "train together; set it to 'bf16'. (torchao's 8-bit states are not used yet.)"
        )
