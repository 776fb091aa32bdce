"""AdamW whose moments or gradients take fewer bytes: bf16 moments, 8-bit moments, bf16 gradients.

Weights and their update are fp32 in all of them. Each works on one parameter after the other, so that no second copy
of all gradients is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmoe.config import OptimizerConfig
from tagmoe.errors import ConfigError
from tagmoe.extras import require
from tagmoe.train.sharding import local, sharded_rows

SMALLEST_8BIT = 4096
"""A parameter of fewer numbers keeps fp32 moments (bitsandbytes' default)."""
BLOCK_8BIT = 256
"""Numbers that share one fp32 scale in 8-bit moments."""
BETAS = (0.9, 0.99)
MOMENTS = ("exp_avg", "exp_avg_sq")
SCALE = "_scale"
"""The end of the name of the scales of a moment in 8 bits."""


class AdamWByParameter(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) with moments of any dtype, and gradients of any.

    The moments are read as fp32, updated, and rounded to nearest. In bf16 a second moment that should change by less
    than 0.2 to 0.4 % stays as it is; with beta_2 = 0.99 that is a squared gradient within 20 to 40 % of it.
    Of a sharded parameter each rank updates its part.
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
        state, weight, gradient = self.state[parameter], local(parameter), local(parameter.grad).float()
        if not state:
            state["step"] = 0
            for name in MOMENTS:
                self._begin(state, name, parameter)
        state["step"] = step = int(state["step"]) + 1
        first, second = group["betas"]
        # Not in place: fp32 moments are the state itself, and an fp32 gradient the parameter's.
        mean = self._read(state, "exp_avg").lerp(gradient, 1 - first)
        square = self._read(state, "exp_avg_sq").lerp(gradient.square(), 1 - second)
        self._write(state, "exp_avg", mean)
        self._write(state, "exp_avg_sq", square)
        scale = square.sqrt_().div_(math.sqrt(1 - second**step)).add_(group["eps"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**step))

    def _begin(self, state: dict[str, Any], name: str, parameter: nn.Parameter) -> None:
        state[name] = torch.zeros_like(parameter, dtype=self.states)

    def _read(self, state: dict[str, Any], name: str) -> Tensor:
        return local(state[name]).float()

    def _write(self, state: dict[str, Any], name: str, moment: Tensor) -> None:
        local(state[name]).copy_(moment)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts the moments to the dtype of the weights; here they get theirs back, which loses nothing."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["step"] = int(state["step"])
            for name in MOMENTS:
                state[name] = state[name].to(self._dtype(state, name))

    def _dtype(self, state: dict[str, Any], name: str) -> torch.dtype:
        return self.states


class AdamWIn8Bits(AdamWByParameter):
    """AdamW with moments of matrices in 8 bits (Dettmers et al., 2022), by bitsandbytes' quantisation; others in fp32.

    256 numbers of a row share a scale, and no two rows do. So the moments do not depend on how many ranks share the
    rows, which a resume may change. Raises MissingError without bitsandbytes.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, weight_decay: float) -> None:
        require("memory", purpose="The setting 'optimizer.states: 8bit'")
        super().__init__(groups, lr=lr, weight_decay=weight_decay, states=torch.float32)

    def _begin(self, state: dict[str, Any], name: str, parameter: nn.Parameter) -> None:
        if not takes_8bit(parameter):
            super()._begin(state, name, parameter)
            return
        state[name] = torch.zeros_like(parameter, dtype=torch.uint8)
        rows, blocks = len(parameter), blocks_of(parameter)
        scales = torch.zeros(len(local(parameter)), blocks, device=parameter.device)
        state[name + SCALE] = sharded_rows(scales, parameter, rows)

    def _read(self, state: dict[str, Any], name: str) -> Tensor:
        if name + SCALE not in state:
            return super()._read(state, name)
        from bitsandbytes.functional import dequantize_blockwise

        codes, scales = local(state[name]), local(state[name + SCALE])
        if not codes.numel():
            return codes.float()
        blocks = _in_blocks(codes)
        numbers = dequantize_blockwise(
            blocks, absmax=scales.flatten(), code=_code(name, codes.device), blocksize=BLOCK_8BIT
        )
        return _of_blocks(numbers, codes)

    def _write(self, state: dict[str, Any], name: str, moment: Tensor) -> None:
        if name + SCALE not in state:
            super()._write(state, name, moment)
            return
        from bitsandbytes.functional import quantize_blockwise

        if moment.numel():
            codes, kept = quantize_blockwise(_in_blocks(moment), code=_code(name, moment.device), blocksize=BLOCK_8BIT)
            local(state[name]).copy_(_of_blocks(codes, moment))
            scales = local(state[name + SCALE])
            scales.copy_(kept.absmax.view_as(scales))

    def _dtype(self, state: dict[str, Any], name: str) -> torch.dtype:
        return torch.uint8 if name + SCALE in state else self.states


def takes_8bit(parameter: Tensor) -> bool:
    """Whether a parameter's moments are kept in 8 bits: one of several dimensions and of many numbers."""
    return parameter.ndim > 1 and parameter.numel() >= SMALLEST_8BIT


def blocks_of(parameter: Tensor) -> int:
    """The scales of a row of a parameter's moment."""
    return math.ceil(math.prod(parameter.shape[1:]) / BLOCK_8BIT)


def _in_blocks(tensor: Tensor) -> Tensor:
    """The rows of a tensor, each filled up to whole blocks with zeros, after one another."""
    rows = tensor.flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % BLOCK_8BIT)).flatten()


def _of_blocks(flat: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_in_blocks`."""
    rows = flat.view(len(like), -1)
    return rows[:, : math.prod(like.shape[1:])].reshape(like.shape)


@lru_cache
def _code(name: str, device: torch.device) -> Tensor:
    """bitsandbytes' table of the 256 numbers that 8 bits stand for. Second moments have no sign."""
    from bitsandbytes.functional import create_dynamic_map

    code: Tensor = create_dynamic_map(signed=name == "exp_avg").to(device)
    return code


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
