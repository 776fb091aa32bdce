"""Experts that are plain FFNs, written by hand: sort, FFN and un-sort of Eq. (1) in one step with its own backward.

On a CPU this makes a mixture as fast as one dense FFN or faster (figures in docs/log.md), for three reasons. torch's
tanh-GELU costs four times its sigmoid, and its backward as much again; here one pass over blocks that stay in the cache
gives both the GELU and its slope. oneDNN adds the bias inside the product, and without gradients applies the GELU there
too. The step is a single operator, so torch.compile need not break the graph.

Shapes: S assignments (tokens times active experts), P = S and room for padding, F hidden width, N experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from tagmoe.model.wrapping import is_hooked

DTYPES = (torch.float32, torch.bfloat16)

# oneDNN compiles a CPU kernel for each new row count, which takes a millisecond or more. A mixture has new counts at
# every step. Slices are padded to a multiple of this many rows, so that compiled kernels are reused.
CPU_ROW_BLOCK = 16
# Below this many rows padding costs more than oneDNN's fp32 products save. torch's own products need no padding.
CPU_FUSED_ROWS = 1024
# A CPU product of one to three rows takes another kernel, which rounds otherwise. Where tokens are left out, slices
# are padded to this many rows, so that the others get the numbers that they had among more.
LEAST_ROWS = 5

# Elements of one block of a GELU: large enough to hide the calls, small enough for its buffers to stay in a cache.
GELU_BLOCK = 1 << 16
# GELU(h) = h sigmoid(h (C0 + C1 h^2)), the tanh form rewritten: (1 + tanh(u)) / 2 = sigmoid(2 u).
C0 = 2 * math.sqrt(2 / math.pi)
C1 = C0 * 0.044715


def weights_of(experts: Iterable[nn.Module]) -> list[Tensor] | None:
    """[w1, w2, b1, b2] of each expert in turn, or [w1, w2] without biases; None: call the modules instead.

    Only plain diffusers FFNs can be read this way. LoRA layers, quantised weights, DTensors, and hooks (offload,
    casting) live in the modules' own forward and must be called.
    """
    if not _are_plain(experts):
        return None
    weights: list[Tensor] = []
    for expert in experts:
        layers: Any = (expert.net[0].proj, expert.net[2])  # type: ignore[index, union-attr]
        weights += [layer.weight for layer in layers]
        weights += [layer.bias for layer in layers if layer.bias is not None]
    return weights


# torch.compile cannot look into hooks, so it evaluates this once, while it traces
@torch.compiler.assume_constant_result
def _are_plain(experts: Iterable[nn.Module]) -> bool:
    return all(_is_plain(expert) for expert in experts)


def _is_plain(expert: nn.Module) -> bool:
    net: Any = expert.net if type(expert) is FeedForward else ()
    if len(net) != 3 or type(net[0]) is not GELU or type(net[1]) is not nn.Dropout:
        return False
    activation, dropout, out = net
    layers = (activation.proj, out)
    return (
        activation.approximate == "tanh"
        and not (dropout.p and dropout.training)
        and all(type(layer) is nn.Linear for layer in layers)
        and (activation.proj.bias is None) == (out.bias is None)
        and not any(is_hooked(module) for module in (expert, *net, net, activation.proj))
        and all(type(p) in (nn.Parameter, Tensor) and p.dtype in DTYPES for p in expert.parameters())
    )


def run_plain(
    x_SD: Tensor, ids_S: Tensor, weights: list[Tensor], num_experts: int, least_rows: int = 1, fuses: bool = True
) -> Tensor:
    """Apply FFN ids_S[i] to row i of x_SD -> (S, D). Under autocast it computes in autocast's dtype.

    weights: those of `weights_of`. An expert without rows gets zero gradients. least_rows: without gradients and in
    eager mode, an expert that has rows gets padding up to so many (`LEAST_ROWS`). fuses: there, False leaves out
    oneDNN's products, whose bits are others, whatever the number of rows.
    """
    device = x_SD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_SD, weights = x_SD.to(dtype), [weight.to(dtype) for weight in weights]
    if torch.compiler.is_compiling():
        y_SD: Tensor = torch.ops.tagmoe.experts(x_SD, ids_S, weights, num_experts, torch.is_grad_enabled())[0]
        return y_SD
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x_SD, *weights)):
            y_SD = _PlainExperts.apply(x_SD, ids_S, num_experts, *weights)
            return y_SD
        order = sort_by_expert(x_SD, ids_S, num_experts, least_rows, fuses)
        return _forward(x_SD, order, weights, trains=False, fuses=fuses)[0]


class _PlainExperts(torch.autograd.Function):
    """`_forward` and `_backward` for eager mode."""

    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, ids_S: Tensor, num_experts: int, *weights: Tensor) -> Tensor:
        ctx.order = sort_by_expert(x_SD, ids_S, num_experts)
        y_SD, x_PD, activations, slopes = _forward(x_SD, ctx.order, weights, trains=True)
        ctx.save_for_backward(x_PD, *activations, *slopes, *weights)
        return y_SD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_PD, *rest = ctx.saved_tensors
        num = len(ctx.order.sizes)
        activations, slopes, weights = rest[:num], rest[num : 2 * num], rest[2 * num :]
        wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        grad_x_SD, *grads = _backward(grad_SD, x_PD, activations, slopes, ctx.order, weights, wanted)
        return grad_x_SD, None, None, *grads


class Order(NamedTuple):
    """slots_P: the assignment in each row of the sorted, padded order. inverse_S: the row of each assignment.

    counts: assignments of each expert; sizes: its rows, padding at their end included. Rows of slots_P beyond the
    slices, if any, are never read.
    """

    slots_P: Tensor
    inverse_S: Tensor
    counts: list[int]
    sizes: list[int]


def sort_by_expert(x_SD: Tensor, ids_S: Tensor, num_experts: int, least_rows: int = 1, fuses: bool = True) -> Order:
    """The order in which the rows of each expert form one slice. ids_S (int64): the chosen expert of each row.

    least_rows: the rows that a slice has at least, if it has any. fuses: pad slices for oneDNN's products.
    """
    block = _row_block(x_SD) if fuses else 1
    ids_sorted, order_S = ids_S.sort(stable=True)
    counts = torch.bincount(ids_sorted, minlength=num_experts)
    rows_S = torch.arange(len(ids_S), device=ids_S.device)
    if block == 1 and (least_rows == 1 or not any(0 < count < least_rows for count in counts.tolist())):
        sizes_N, slots_P = counts, order_S
    else:
        sizes_N = (counts + block - 1) // block * block
        sizes_N = sizes_N.where(counts == 0, sizes_N.clamp_min(least_rows))
        padding_N = sizes_N - counts
        rows_S += (padding_N.cumsum(0) - padding_N)[ids_sorted]
        # room for the worst routing: the shapes of a compiled graph must not depend on the routing
        room = num_experts * (max(block, least_rows) - 1)
        slots_P = ids_S.new_zeros(len(ids_S) + room).index_copy_(0, rows_S, order_S)
    inverse_S = torch.empty_like(order_S).index_copy_(0, order_S, rows_S)
    return Order(slots_P, inverse_S, counts.tolist(), sizes_N.tolist())


def _forward(
    x_SD: Tensor, order: Order, weights: Sequence[Tensor], trains: bool, fuses: bool = True
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """(y_SD, x_PD, activations and slopes of every expert); without `trains` the lists are empty."""
    per = len(weights) // len(order.sizes)
    # A slice that has a round number of rows by chance must not go to oneDNN: its rows would round otherwise.
    fuses = fuses and _row_block(x_SD) > 1
    x_PD = x_SD.index_select(0, order.slots_P)
    activations, slopes = [], []
    # without gradients an expert's inputs are not needed after its hidden layer: its outputs overwrite them
    y_PD = torch.empty_like(x_PD) if trains else x_PD
    for e, (x, y) in enumerate(zip(*(_split(tensor, order.sizes) for tensor in (x_PD, y_PD)), strict=True)):
        w1, w2 = weights[per * e : per * e + 2]
        b1, b2 = weights[per * e + 2 : per * e + 4] if per == 4 else (None, None)
        if trains:
            slope = linear(x, w1, b1, fuses=fuses)
            hidden = gelu_and_slope_(slope)
            activations.append(hidden)
            slopes.append(slope)
        else:
            hidden = linear_gelu(x, w1, b1, fuses)
        linear(hidden, w2, b2, out=y, fuses=fuses)
    return y_PD.index_select(0, order.inverse_S), x_PD, activations, slopes


def _backward(
    grad_SD: Tensor,
    x_PD: Tensor,
    activations: Sequence[Tensor],
    slopes: Sequence[Tensor],
    order: Order,
    weights: Sequence[Tensor],
    wanted: list[bool],
) -> list[Tensor | None]:
    """Gradients of x_SD and of every weight, None where `wanted` is false."""
    per = len(weights) // len(order.sizes)
    grad_PD = grad_SD.index_select(0, order.slots_P)
    grad_x_PD = torch.empty_like(x_PD)
    grads: list[Tensor | None] = []
    rows = zip(*(_split(tensor, order.sizes) for tensor in (x_PD, grad_PD, grad_x_PD)), strict=True)
    for e, (x, grad, grad_x) in enumerate(rows):
        w1, w2 = weights[per * e : per * e + 2]
        wants = wanted[1 + per * e : 1 + per * (e + 1)]
        grad[order.counts[e] :] = 0  # padding
        grad_h = grad.mm(w2).mul_(slopes[e])
        grads += [grad_h.t().mm(x) if wants[0] else None, grad.t().mm(activations[e]) if wants[1] else None]
        if per == 4:
            grads += [grad_h.sum(0) if wants[2] else None, grad.sum(0) if wants[3] else None]
        if wanted[0]:
            torch.mm(grad_h, w1, out=grad_x)
    return [grad_x_PD.index_select(0, order.inverse_S) if wanted[0] else None, *grads]


def _split(x_PD: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    slices: tuple[Tensor, ...] = x_PD[: sum(sizes)].split(sizes)
    return slices


def _row_block(x_SD: Tensor) -> int:
    """Slices are padded to a multiple of this many rows: 1 (none) where oneDNN does not compute them."""
    if x_SD.device.type != "cpu":
        return 1
    return CPU_ROW_BLOCK if x_SD.dtype != torch.float32 or len(x_SD) >= CPU_FUSED_ROWS else 1


def gelu_and_slope_(h: Tensor) -> Tensor:
    """The tanh-GELU of h, a new tensor; h, which must be contiguous, becomes its derivative. Computes in fp32.

    With s = sigmoid(h (C0 + C1 h^2)): GELU = h s and GELU' = s + h s (1 - s) (C0 + 3 C1 h^2).
    """
    activation = torch.empty_like(h)
    is_fp32 = h.dtype == torch.float32
    size = min(GELU_BLOCK, h.numel())
    c = h.new_full((size,), C0, dtype=torch.float32)
    buffers = [torch.empty_like(c) for _ in range(2 if is_fp32 else 4)]
    for block_h, block_a in zip(h.view(-1).split(GELU_BLOCK), activation.view(-1).split(GELU_BLOCK), strict=True):
        if len(block_h) < size:
            size = len(block_h)
            c, buffers = c[:size], [buffer[:size] for buffer in buffers]
        s, t, *wide = buffers
        x, a = (block_h, block_a) if is_fp32 else (wide[0].copy_(block_h), wide[1])
        torch.addcmul(c, x, x, value=C1, out=t)
        torch.sigmoid(torch.mul(t, x, out=s), out=s)
        torch.mul(x, s, out=a)
        torch.addcmul(c, x, x, value=3 * C1, out=t)
        torch.addcmul(a, a, s, value=-1, out=x)
        torch.addcmul(s, x, t, out=x)
        if not is_fp32:
            block_h.copy_(x)
            block_a.copy_(a)
    return activation


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None, fuses: bool = True) -> Tensor:
    """x W^T + b. Padded fp32 products go to oneDNN, which adds the bias inside; torch sends 16-bit ones there."""
    if fuses and HAS_POINTWISE and x.device.type == "cpu" and x.dtype == torch.float32 and _row_count_is_round(x):
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y if out is None else out.copy_(y)
    if out is None:
        return F.linear(x, weight, bias)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def gelu_(h: Tensor) -> Tensor:
    """The tanh-GELU in the place of h, which must be contiguous and in fp32; see `gelu_and_slope_`."""
    c, buffer = h.new_tensor(C0), h.new_empty(min(GELU_BLOCK, h.numel()))
    for block in h.view(-1).split(GELU_BLOCK):
        s = torch.addcmul(c, block, block, value=C1, out=buffer[: len(block)])
        block.mul_(s.mul_(block).sigmoid_())
    return h


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, fuses: bool = True) -> Tensor:
    """GELU(x W^T + b), without gradients: inside oneDNN's product where this torch has it and the processor AVX-512.

    With AVX2 alone oneDNN's GELU takes as long as torch's; in place, by blocks that stay in the cache, it takes less.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and not HAS_AVX512:
        return gelu_(linear(x, weight, bias, fuses=fuses))
    if fuses and HAS_POINTWISE and x.device.type == "cpu" and x.dtype in DTYPES and _row_count_is_round(x):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
        return y
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _row_count_is_round(x: Tensor) -> bool:
    """Whether the row count is padded, so that oneDNN reuses a compiled kernel (`CPU_ROW_BLOCK`)."""
    return len(x) > 0 and len(x) % CPU_ROW_BLOCK == 0


def _probe_pointwise() -> bool:
    """Whether this torch has oneDNN's fused linear and GELU, and it is right: the operator is not a public one."""
    x, weight, bias = torch.linspace(-3, 3, 32).view(4, 8), torch.linspace(-1, 1, 128).view(16, 8), torch.ones(16)
    try:
        for dtype in DTYPES:
            args = (x.to(dtype), weight.to(dtype), bias.to(dtype))
            fused = torch.ops.mkldnn._linear_pointwise(*args, "gelu", [], "tanh")
            plain = F.gelu(F.linear(*args), approximate="tanh")
            if not torch.allclose(fused.float(), plain.float(), rtol=0.05, atol=0.05):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True


HAS_AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
HAS_POINTWISE = torch.backends.mkldnn.is_available() and _probe_pointwise()


# For torch.compile: the same functions as custom operators; a graph needs only the shapes of their results -----------


@torch.library.custom_op("tagmoe::experts", mutates_args=())
def _experts_op(x_SD: Tensor, ids_S: Tensor, weights: list[Tensor], num_experts: int, trains: bool) -> list[Tensor]:
    """[y_SD, x_PD, activation_PF, slope_PF, slots_P, inverse_S, rows_2N]; all but y_SD are empty unless `trains`."""
    order = sort_by_expert(x_SD, ids_S, num_experts)
    y_SD, x_PD, activations, slopes = _forward(x_SD, order, weights, trains)
    if not trains:
        return [y_SD, *(x_SD.new_empty(0) for _ in range(3)), *(ids_S.new_empty(0) for _ in range(3))]
    unused = activations[0].new_empty(len(x_PD) - sum(order.sizes), weights[0].shape[0])
    hidden = [torch.cat([*tensors, unused]) for tensors in (activations, slopes)]
    return [y_SD, x_PD, *hidden, order.slots_P, order.inverse_S, ids_S.new_tensor([order.counts, order.sizes])]


@_experts_op.register_fake
def _(x_SD: Tensor, ids_S: Tensor, weights: list[Tensor], num_experts: int, trains: bool) -> list[Tensor]:
    assignments, dim = x_SD.shape
    if not trains:
        return [torch.empty_like(x_SD), *(x_SD.new_empty(0) for _ in range(3)), *(ids_S.new_empty(0) for _ in range(3))]
    rows = assignments + num_experts * (_row_block(x_SD) - 1)
    hidden = (rows, weights[0].shape[0])
    return [
        x_SD.new_empty(assignments, dim),
        x_SD.new_empty(rows, dim),
        x_SD.new_empty(hidden),
        x_SD.new_empty(hidden),
        ids_S.new_empty(rows),
        ids_S.new_empty(assignments),
        ids_S.new_empty(2, num_experts),
    ]


@torch.library.custom_op("tagmoe::experts_backward", mutates_args=())
def _experts_backward_op(grad_SD: Tensor, saved: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    x_PD, activation_PF, slope_PF, slots_P, inverse_S, rows_2N = saved
    order = Order(slots_P, inverse_S, *rows_2N.tolist())
    activations, slopes = _split(activation_PF, order.sizes), _split(slope_PF, order.sizes)
    grads = _backward(grad_SD, x_PD, activations, slopes, order, weights, wanted=[True] * (1 + len(weights)))
    return [grad for grad in grads if grad is not None]


@_experts_backward_op.register_fake
def _(grad_SD: Tensor, saved: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(grad_SD), *(torch.empty_like(weight) for weight in weights)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*output[1:], *inputs[2])


def _experts_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)  # read once: checkpointing allows a single access
    saved, weights = tensors[:6], tensors[6:]
    grad_x_SD, *grad_weights = torch.ops.tagmoe.experts_backward(grads[0].contiguous(), saved, weights)
    return grad_x_SD, None, grad_weights, None, None


_experts_op.register_autograd(_experts_grad, setup_context=_save)
