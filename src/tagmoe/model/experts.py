"""Running tokens through their experts: sum_{i in T(x)} G(x)_i E_i(x) of Eq. (1), as a readable loop and fast.

Both functions are dropless (no token is ever refused), deterministic, and call every expert even when it has no token:
its gradient is then zero rather than None, so that data-parallel ranks always reduce the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tagmoe.model import cpu_experts


def experts_loop(
    x_TD: torch.Tensor, experts: Sequence[nn.Module], expert_ids_TA: torch.Tensor, weights_TA: torch.Tensor
) -> torch.Tensor:
    """Eq. (1) as written: one expert after the other by mask. The specification that `experts_sorted` must equal.

    x_TD tokens, expert_ids_TA (int64) the chosen experts of each token, weights_TA their scores -> y_TD in x's dtype.
    """
    y_TD = torch.zeros_like(x_TD)
    for index, expert in enumerate(experts):
        token, choice = torch.where(expert_ids_TA == index)
        weighted = expert(x_TD[token]) * weights_TA[token, choice, None].to(x_TD.dtype)
        y_TD = y_TD.index_add(0, token, weighted.to(x_TD.dtype))
    return y_TD


# oneDNN compiles its CPU kernels for each new row count, a millisecond or more every time, and the counts of a mixture
# are new at every step. Slices rounded up to this many rows meet kernels that are compiled already.
CPU_ROW_BLOCK = 16
# Below this many rows the padding costs more than oneDNN's fp32 products gain over torch's own, which need none.
CPU_FUSED_ROWS = 1024


class _Dispatch(torch.autograd.Function):
    """Rows of x in expert order; backward gathers by the inverse order.

    The autograd of plain indexing scatters with atomics or accumulation, 4 to 26 times slower on a CPU. `slots_P` may
    repeat rows as padding: nothing reads their results, so their gradients (zero) are left out.
    """

    @staticmethod
    def forward(ctx, x_SD: torch.Tensor, slots_P: torch.Tensor, inverse_S: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(inverse_S)
        return x_SD.index_select(0, slots_P)

    @staticmethod
    def backward(ctx, grad_PD: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (inverse_S,) = ctx.saved_tensors
        return grad_PD.index_select(0, inverse_S), None, None


class _Combine(torch.autograd.Function):
    """The way back: one row of the experts' output for each assignment, padding dropped; its gradient is zero."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, out_PD: torch.Tensor, slots_P: torch.Tensor, inverse_S: torch.Tensor, padding: list[tuple[int, int]]
    ) -> torch.Tensor:
        ctx.save_for_backward(slots_P)
        ctx.padding = padding
        return out_PD.index_select(0, inverse_S)

    @staticmethod
    def backward(ctx, grad_SD: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        (slots_P,) = ctx.saved_tensors
        grad_PD = grad_SD.index_select(0, slots_P)
        for start, end in ctx.padding:
            grad_PD[start:end] = 0
        return grad_PD, None, None, None


# torch.compile would compile anew for each set of counts; disabled, it breaks the graph here and nowhere else
@torch.compiler.disable
def experts_sorted(
    x_TD: torch.Tensor, experts: Sequence[nn.Module], expert_ids_TA: torch.Tensor, weights_TA: torch.Tensor
) -> torch.Tensor:
    """Eq. (1) fast: sort the tokens by expert once, run each expert on one contiguous slice, un-sort, weigh, sum.

    Same arguments and result as `experts_loop`.
    """
    tokens, active = expert_ids_TA.shape
    with torch.no_grad():
        ids_S = expert_ids_TA.reshape(-1)
        slots_P = torch.argsort(ids_S, stable=True)
        counts = torch.bincount(ids_S, minlength=len(experts)).tolist()
        sizes, padding = _padded_sizes(counts, _row_block(x_TD, len(ids_S)))
        rows_S = _rows_of_assignments(counts, sizes, slots_P.device)
        inverse_S = torch.empty_like(slots_P)
        inverse_S[slots_P] = rows_S
        if padding:
            padded = slots_P.new_zeros(sum(sizes))
            padded[rows_S] = slots_P
            slots_P = padded
    x_SD = x_TD if active == 1 else x_TD.repeat_interleave(active, dim=0)
    out_PD = _run_experts(_Dispatch.apply(x_SD, slots_P, inverse_S), sizes, experts)
    y_SD = _Combine.apply(out_PD, slots_P, inverse_S, padding)
    weighted_SD = y_SD * weights_TA.reshape(-1, 1).to(y_SD.dtype)
    if active > 1:
        weighted_SD = weighted_SD.view(tokens, active, -1).sum(dim=1)
    return weighted_SD.to(x_TD.dtype)


def _run_experts(x_PD: torch.Tensor, sizes: list[int], experts: Sequence[nn.Module]) -> torch.Tensor:
    """Every expert on its slice of rows -> (P, D): with `_row_block`, the one place that picks how."""
    if x_PD.device.type == "cpu" and x_PD.dtype in cpu_experts.DTYPES and len(x_PD) >= CPU_FUSED_ROWS:
        weights = cpu_experts.weights_of(experts)
        if weights is not None:
            return cpu_experts.run(x_PD, sizes, weights)
    return torch.cat([expert(chunk) for expert, chunk in zip(experts, x_PD.split(sizes), strict=True)])


def _row_block(x_TD: torch.Tensor, rows: int) -> int:
    """What slices are rounded up to: more than 1 where oneDNN runs them."""
    if x_TD.device.type != "cpu":
        return 1
    is_half = x_TD.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    return CPU_ROW_BLOCK if is_half or rows >= CPU_FUSED_ROWS else 1


def _padded_sizes(counts: list[int], block: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Slice sizes rounded up to whole blocks, and the (start, end) rows that are padding."""
    sizes, padding, start = [], [], 0
    for count in counts:
        size = -(-count // block) * block
        if size > count:
            padding.append((start + count, start + size))
        sizes.append(size)
        start += size
    return sizes, padding


def _rows_of_assignments(counts: list[int], sizes: list[int], device: torch.device) -> torch.Tensor:
    """The row, among padded slices, of every assignment in expert order."""
    rows, start = [], 0
    for count, size in zip(counts, sizes, strict=True):
        rows.append(torch.arange(start, start + count, device=device))
        start += size
    return torch.cat(rows)
