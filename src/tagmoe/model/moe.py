"""The mixture that takes the place of an image MLP (paper 4.1, Eq. 1)."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from torch import nn

from tagmoe.errors import ConfigError
from tagmoe.model.cpu.experts import LEAST_ROWS
from tagmoe.model.experts import experts_sorted
from tagmoe.model.gate import Gate


class MoE(nn.Module):
    """Eq. (1): MoE(x) = sum_{i in T(x)} G(x)_i E_i(x), T(x) the top-k experts of G(x).

    The weights are the softmax scores as they are, not renormalised over T(x): with top_k = 1 a renormalised weight
    would be the constant 1 and the gate would get no gradient from the diffusion loss.

    `expert_bias=False` is the authors' release, whose experts have no bias. rows_apart: no row's bits depend on the
    other rows (`tagmoe.model.cpu.batches`).
    """

    rows_apart = False

    def __init__(
        self,
        dim: int,
        num_experts: int = 4,
        top_k: int = 1,
        gate: str = "mlp",
        gate_hidden: int | None = None,
        expert_bias: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ConfigError(f"top_k is {top_k}; give a number from 1 to num_experts = {num_experts}.")
        self.top_k = top_k
        self.gate = Gate(dim, num_experts, kind=gate, hidden=gate_hidden)
        self.experts = nn.ModuleList(
            FeedForward(dim, dim_out=dim, activation_fn="gelu-approximate", bias=expert_bias)
            for _ in range(num_experts)
        )

    def forward(
        self,
        x_BTD: torch.Tensor,
        return_routing: bool = False,
        live_tokens: int | None = None,
        least_rows: int = 1,
        *,
        gate_BTD: torch.Tensor | None = None,
        text_BD: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_BTD -> y_BTD; with return_routing (y_BTD, scores_BTN fp32 before top-k, expert_ids_BTA int64).

        live_tokens: only so many tokens of each sample, its first, go through the experts, and y has no others. The
        gate scores every token of x. least_rows: see `run_plain`. gate_BTD: what the gate sees in place of x_BTD.
        text_BD: the pooled text, for a gate of kind "text".
        """
        batch, tokens, dim = x_BTD.shape
        x_TD = x_BTD.reshape(batch * tokens, dim)
        seen_TD = x_TD if gate_BTD is None else gate_BTD.reshape(batch * tokens, dim)
        scores_TN = self.gate(seen_TD) if text_BD is None else self.gate(seen_TD, text_BD)
        weights_TA, expert_ids_TA = choose(scores_TN, self.top_k)
        scores_BTN, expert_ids_BTA = scores_TN.view(batch, tokens, -1), expert_ids_TA.view(batch, tokens, -1)
        if live_tokens is not None and live_tokens < tokens:
            tokens = live_tokens
            x_TD = x_BTD[:, :tokens].reshape(batch * tokens, dim)
            weights_TA = weights_TA.view(batch, -1, self.top_k)[:, :tokens].reshape(batch * tokens, -1)
            expert_ids_TA = expert_ids_BTA[:, :tokens].reshape(batch * tokens, -1)
        if self.rows_apart:
            least_rows = LEAST_ROWS
        y_TD = experts_sorted(x_TD, self.experts, expert_ids_TA, weights_TA, least_rows, not self.rows_apart)
        y_BTD = y_TD.view(batch, tokens, dim)
        return (y_BTD, scores_BTN, expert_ids_BTA) if return_routing else y_BTD


def choose(scores_TN: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """T(x) of Eq. (1): the scores and ids (int64) of the top-k experts of each token, best first, two (T, A)."""
    if top_k == 1:  # three times as fast as topk
        weights_TA, expert_ids_TA = scores_TN.max(dim=-1, keepdim=True)
    else:
        weights_TA, expert_ids_TA = scores_TN.topk(top_k, dim=-1)
    return weights_TA, expert_ids_TA
