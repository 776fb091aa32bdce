"""The router of one mixture layer: token -> probabilities over the experts (paper 4.1, G in Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tagmoe.errors import ConfigError

GATE_KINDS = ("mlp", "linear")

# Standard deviation of the first logits: near-tied, so that exact upcycling equals the dense model to 1e-5 in fp32,
# but not exactly tied, because exact ties send every token to expert 0 and its gradient to nobody else.
INITIAL_LOGIT_STD = 1e-6


class Float32Linear(nn.Linear):
    """A linear layer that computes in fp32 whatever the dtype of its weights, of its input or of autocast.

    It stays an `nn.Linear` whose own forward uses its own weights, so LoRA and group offload treat it like any other.
    """

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(x_TD.device.type, enabled=False):
            return F.linear(x_TD.float(), self.weight.float(), bias)


class Gate(nn.Module):
    """G of Eq. (1): softmax over the experts, in fp32 always.

    kind "mlp" is the paper's two-layer gate (Sec. 4.1), "linear" the single bias-free layer of the authors' release.
    `hidden` is the width of the two-layer gate, dim // 4 when None (the paper gives no width).
    """

    def __init__(self, dim: int, num_experts: int, kind: str = "mlp", hidden: int | None = None) -> None:
        super().__init__()
        if kind not in GATE_KINDS:
            raise ConfigError(f"The gate {kind!r} is unknown; choose one of {', '.join(GATE_KINDS)}.")
        if num_experts < 2:
            raise ConfigError(f"A mixture has {num_experts} expert(s); give num_experts at least 2.")
        if hidden is not None and hidden < 1:
            raise ConfigError(f"The gate's hidden width is {hidden}; give at least 1, or None for dim // 4.")
        self.kind = kind
        if kind == "mlp":
            width = hidden if hidden is not None else max(dim // 4, num_experts)
            self.proj_in: nn.Module | None = Float32Linear(dim, width)
            self.proj_out = Float32Linear(width, num_experts)
        else:
            self.proj_in = None
            self.proj_out = Float32Linear(dim, num_experts, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights; the last layer is tiny (see INITIAL_LOGIT_STD)."""
        if isinstance(self.proj_in, nn.Linear):
            bound = self.proj_in.in_features**-0.5
            nn.init.uniform_(self.proj_in.weight, -bound, bound, generator=generator)
            nn.init.uniform_(self.proj_in.bias, -bound, bound, generator=generator)
        nn.init.normal_(
            self.proj_out.weight, std=INITIAL_LOGIT_STD * self.proj_out.in_features**-0.5, generator=generator
        )
        if self.proj_out.bias is not None:
            nn.init.zeros_(self.proj_out.bias)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """x_TD (tokens, dim), any float dtype -> scores_TN fp32, rows sum to 1."""
        hidden = x_TD if self.proj_in is None else F.silu(self.proj_in(x_TD))
        # Over the first dimension: on a CPU a softmax over rows of four takes seven times as long.
        logits_NT = self.proj_out(hidden).t().contiguous()
        return torch.softmax(logits_NT, dim=0, dtype=torch.float32).t()
