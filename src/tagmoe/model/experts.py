"""Running tokens through their experts: sum_{i in T(x)} G(x)_i E_i(x) of Eq. (1), by a readable loop and a fast path.

Both functions are dropless (no token is ever refused), deterministic, and call every expert even when it has no token:
its gradient is then zero rather than None, so that data-parallel ranks always reduce the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tagmoe.model.cpu import experts as plain_experts


def experts_loop(
    x_TD: torch.Tensor,
    experts: Sequence[nn.Module] | nn.ModuleList,
    expert_ids_TA: torch.Tensor,
    weights_TA: torch.Tensor,
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


def experts_sorted(
    x_TD: torch.Tensor,
    experts: Sequence[nn.Module] | nn.ModuleList,
    expert_ids_TA: torch.Tensor,
    weights_TA: torch.Tensor,
    least_rows: int = 1,
    fuses: bool = True,
) -> torch.Tensor:
    """Eq. (1) fast: sort the tokens by expert once, run each expert on one contiguous slice, un-sort, weigh, sum.

    Same arguments and result as `experts_loop`. Only this function chooses how the experts run. least_rows, fuses: see
    `run_plain`.
    """
    tokens, active = expert_ids_TA.shape
    ids_S = expert_ids_TA.reshape(-1)
    x_SD = x_TD if active == 1 else x_TD.repeat_interleave(active, dim=0)
    on_cpu = x_TD.device.type == "cpu" and x_TD.dtype in plain_experts.DTYPES
    weights = plain_experts.weights_of(experts) if on_cpu else None
    if weights is not None:
        y_SD = plain_experts.run_plain(x_SD, ids_S, weights, len(experts), least_rows, fuses)
    else:
        y_SD = _call_experts(x_SD, ids_S, experts)
    weights_S1 = weights_TA.reshape(-1, 1).to(y_SD.dtype)
    weighted_SD = y_SD * weights_S1 if torch.is_grad_enabled() else y_SD.mul_(weights_S1)
    if active > 1:
        weighted_SD = weighted_SD.view(tokens, active, -1).sum(dim=1)
    return weighted_SD.to(x_TD.dtype)


class _Permute(torch.autograd.Function):
    """Rows of x in another order; backward gathers by the inverse order.

    The autograd of plain indexing scatters with atomics or accumulation, 4 to 26 times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x_SD: torch.Tensor, order_S: torch.Tensor, inverse_S: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse_S)
        return x_SD.index_select(0, order_S)

    @staticmethod
    def backward(ctx: Any, grad_SD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse_S,) = ctx.saved_tensors
        return grad_SD.index_select(0, inverse_S), None, None


# torch.compile would recompile for every new set of counts. Disabled, it breaks the graph here and nowhere else.
@torch.compiler.disable
def _call_experts(
    x_SD: torch.Tensor, ids_S: torch.Tensor, experts: Sequence[nn.Module] | nn.ModuleList
) -> torch.Tensor:
    """Call each expert's own forward on its slice of rows, so that LoRA, quantisation and offload keep working."""
    with torch.no_grad():
        order_S = torch.argsort(ids_S, stable=True)
        inverse_S = torch.empty_like(order_S)
        inverse_S[order_S] = torch.arange(len(order_S), device=order_S.device)
        counts = torch.bincount(ids_S, minlength=len(experts)).tolist()
    chunks = _Permute.apply(x_SD, order_S, inverse_S).split(counts)
    out_SD = torch.cat([expert(chunk) for expert, chunk in zip(experts, chunks, strict=True)])
    y_SD: torch.Tensor = _Permute.apply(out_SD, inverse_S, order_S)
    return y_SD
