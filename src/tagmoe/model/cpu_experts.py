"""Experts on a CPU by hand: the FFNs of Eq. (1) on contiguous slices, forward and backward, faster than one dense FFN.

Three things make it so (docs/log.md has the figures). torch's tanh-GELU costs four times its sigmoid, and its backward
as much again: here one pass over blocks that stay in the cache gives the GELU and its slope, and backward is one
product. oneDNN adds the bias inside the product. Without gradients it applies the GELU there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import nn

DTYPES = (torch.float32, torch.bfloat16)

# Elements of one block of a GELU: three fp32 buffers of it fit a cache of half a megabyte beside the block itself.
BLOCK = 1 << 15

# GELU(h) = h sigmoid(h (C0 + C1 h^2)), the tanh form rewritten: (1 + tanh(u)) / 2 = sigmoid(2 u).
C0 = 2 * math.sqrt(2 / math.pi)
C1 = C0 * 0.044715


def weights_of(experts: Sequence[nn.Module]) -> list[torch.Tensor | None] | None:
    """[w1, b1, w2, b2] of each expert in turn, None for a bias that is not there; or None: call the modules instead.

    Only plain diffusers FFNs can be read this way. LoRA layers, quantised weights, DTensors, and hooks (offload,
    casting) live in the modules' own forward and must be called.
    """
    weights: list[torch.Tensor | None] = []
    for expert in experts:
        net: Any = expert.net if type(expert) is FeedForward else ()
        if len(net) != 3:
            return None
        activation, dropout, out = net
        if type(activation) is not GELU or activation.approximate != "tanh" or type(dropout) is not nn.Dropout:
            return None
        layers = (activation.proj, out)
        if any(type(layer) is not nn.Linear for layer in layers) or (dropout.p and dropout.training):
            return None
        if any(_is_hooked(module) for module in (expert, net, activation, dropout, *layers)):
            return None
        for layer in layers:
            weights += [layer.weight, layer.bias]
    plain = (nn.Parameter, torch.Tensor)
    return weights if all(weight is None or type(weight) in plain for weight in weights) else None


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says; diffusers and accelerate replace `forward` itself."""
    return bool(
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def run(x_PD: torch.Tensor, sizes: list[int], weights: list[torch.Tensor | None]) -> torch.Tensor:
    """FFN e on the e-th slice of x_PD (`sizes` rows each), for all e -> (P, D), under autocast in its dtype.

    `weights` as `weights_of` gives them. An expert without rows gets zero gradients.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x_PD = x_PD.to(dtype)
        weights = [None if weight is None else weight.to(dtype) for weight in weights]
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x_PD, *weights)):
            out_PD: torch.Tensor = _Experts.apply(x_PD, sizes, *weights)
            return out_PD
        slices = []
        for e, x in enumerate(x_PD.split(sizes)):
            w1, b1, w2, b2 = weights[4 * e : 4 * e + 4]
            slices.append(linear(linear_gelu(x, w1, b1), w2, b2))
        return torch.cat(slices)


class _Experts(torch.autograd.Function):
    """The slices through their FFNs; saves the activations and the slopes of the GELU, as much as autograd would."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_PD: torch.Tensor, sizes: list[int], *weights: torch.Tensor | None
    ) -> torch.Tensor:
        saved, slices = [], []
        for e, x in enumerate(x_PD.split(sizes)):
            w1, b1, w2, b2 = weights[4 * e : 4 * e + 4]
            slope = linear(x, w1, b1)
            activation = gelu_and_slope_(slope)
            slices.append(linear(activation, w2, b2))
            saved += [activation, slope, w1, w2]
        ctx.save_for_backward(x_PD, *saved)
        ctx.sizes = sizes
        return torch.cat(slices)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_PD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x_PD, *saved = ctx.saved_tensors
        wants_x, wants = ctx.needs_input_grad[0], ctx.needs_input_grad[2:]
        grads: list[torch.Tensor | None] = []
        grad_x_PD = torch.empty_like(x_PD) if wants_x else None
        rows = zip(x_PD.split(ctx.sizes), grad_PD.split(ctx.sizes), strict=True)
        start = 0
        for e, (x, grad) in enumerate(rows):
            activation, slope, w1, w2 = saved[4 * e : 4 * e + 4]
            wants_w1, wants_b1, wants_w2, wants_b2 = wants[4 * e : 4 * e + 4]
            grad_w2 = grad.t().mm(activation) if wants_w2 else None
            grad_b2 = grad.sum(0) if wants_b2 else None
            grad_h = grad.mm(w2).mul_(slope)
            grads += [
                grad_h.t().mm(x) if wants_w1 else None,
                grad_h.sum(0) if wants_b1 else None,
                grad_w2,
                grad_b2,
            ]
            if grad_x_PD is not None:
                torch.mm(grad_h, w1, out=grad_x_PD[start : start + len(x)])
            start += len(x)
        return grad_x_PD, None, *grads


def gelu_and_slope_(h: torch.Tensor) -> torch.Tensor:
    """The tanh-GELU of h, a new tensor; h, which must be contiguous, becomes its derivative. Computes in fp32.

    With s = sigmoid(h (C0 + C1 h^2)): GELU = h s and GELU' = s + h s (1 - s) (C0 + 3 C1 h^2).
    """
    activation = torch.empty_like(h)
    flat_h, flat_a = h.view(-1), activation.view(-1)
    is_fp32 = h.dtype == torch.float32
    size = min(BLOCK, flat_h.numel())
    constant = flat_h.new_full((size,), C0, dtype=torch.float32)
    buffers = [torch.empty_like(constant) for _ in range(3 if is_fp32 else 5)]
    for start in range(0, flat_h.numel(), BLOCK):
        block_h, block_a = flat_h[start : start + BLOCK], flat_a[start : start + BLOCK]
        count = len(block_h)
        c, s, t, u, *wide = (constant[:count], *(buffer[:count] for buffer in buffers))
        x, a = (block_h, block_a) if is_fp32 else (wide[0].copy_(block_h), wide[1])
        torch.addcmul(c, x, x, value=C1, out=t)
        torch.sigmoid(torch.mul(t, x, out=s), out=s)
        torch.mul(x, s, out=a)
        torch.addcmul(a, a, s, value=-1, out=u)
        torch.addcmul(c, x, x, value=3 * C1, out=t)
        torch.addcmul(s, u, t, out=x)
        if not is_fp32:
            block_h.copy_(x)
            block_a.copy_(a)
    return activation


def linear(x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    """x W^T + b. In fp32 by oneDNN, which adds the bias inside the product; 16-bit linears go there anyway."""
    if x.dtype == torch.float32 and HAS_POINTWISE and len(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    """GELU(x W^T + b), without gradients: inside oneDNN's product where this torch has it."""
    if x.dtype in DTYPES and HAS_POINTWISE and len(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _probe_pointwise() -> bool:
    """Whether oneDNN's linear with a GELU after it is there and right: torch does not promise this operator."""
    x, weight, bias = torch.linspace(-3, 3, 32).view(4, 8), torch.linspace(-1, 1, 128).view(16, 8), torch.ones(16)
    try:
        for dtype in DTYPES:
            args = (x.to(dtype), weight.to(dtype), bias.to(dtype))
            fused = torch.ops.mkldnn._linear_pointwise(*args, "gelu", [], "tanh")
            plain = F.gelu(F.linear(*args), approximate="tanh")
            if not torch.allclose(fused.float(), plain.float(), rtol=0.05, atol=0.05):
                return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


HAS_POINTWISE = torch.backends.mkldnn.is_available() and _probe_pointwise()
