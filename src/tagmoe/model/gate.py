"""The router of one mixture layer: token -> probabilities over the experts (paper 4.1, G in Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tagmoe.errors import UsageError
from tagmoe.weights.layout import gate_layout


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

    kind "mlp" is the paper's two-layer gate (Sec. 4.1), "linear" the single bias-free layer of the authors' release,
    "text" the paper's with a first layer that also reads the sample's pooled text [ours].
    `hidden` is the width of the two-layer gate, dim // 4 when None (the paper gives no width).
    """

    def __init__(self, dim: int, num_experts: int, kind: str = "mlp", hidden: int | None = None) -> None:
        super().__init__()
        self.layout = gate_layout(dim, num_experts, kind, hidden)
        self.proj_text: nn.Module | None = None
        if kind != "linear":
            width = self.layout[0].shape[0]
            self.proj_in: nn.Module | None = Float32Linear(dim, width)
            if kind == "text":
                self.proj_text = Float32Linear(dim, width, bias=False)
            self.proj_out = Float32Linear(width, num_experts)
        else:
            self.proj_in = None
            self.proj_out = Float32Linear(dim, num_experts, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights as `gate_layout` says; the last layer is tiny."""
        for tensor in self.layout:
            parameter = self.get_parameter(tensor.name)
            if tensor.bound:
                nn.init.uniform_(parameter, -tensor.bound, tensor.bound, generator=generator)
            elif tensor.std:
                nn.init.normal_(parameter, std=tensor.std, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x_TD: torch.Tensor, text_BD: torch.Tensor | None = None) -> torch.Tensor:
        """x_TD (tokens, dim), any float dtype -> scores_TN fp32, rows sum to 1.

        text_BD: the pooled text of the samples, whose tokens follow each other in x_TD; for kind "text" only.
        """
        hidden = x_TD if self.proj_in is None else self.proj_in(x_TD)
        if self.proj_text is not None:
            if text_BD is None:
                raise UsageError("This gate reads the text too; pass the pooled text of each sample.")
            by_sample = hidden.view(len(text_BD), -1, hidden.shape[-1])
            hidden = (by_sample + self.proj_text(text_BD).unsqueeze(1)).flatten(0, 1)
        if self.proj_in is not None:
            hidden = F.silu(hidden)
        # Softmax over the first dimension: on a CPU, one over rows of four numbers takes seven times as long.
        logits_NT = self.proj_out(hidden).t().contiguous()
        return torch.softmax(logits_NT, dim=0, dtype=torch.float32).t()
