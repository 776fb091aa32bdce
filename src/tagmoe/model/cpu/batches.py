"""Make what a transformer computes of a sample on a CPU independent of the other samples of its batch, bit for bit.

A batch has more rows in every matrix product, and a CPU chooses its kernel by the rows. Two choices change bits: one to
three rows take a kernel of their own (`LEAST_ROWS`), which the layers of the time step meet, and an expert with few
tokens; and the mixtures leave torch's products for oneDNN's from a number of tokens on. With both choices taken away
every row gets the same numbers in any batch. What stays: text of another length is padded, which shifts tokens.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from tagmoe.model.cpu.experts import DTYPES, LEAST_ROWS, weights_of
from tagmoe.model.moe import MoE

# The layers that see one row a sample, and the gates, which see one row a token.
_FEW_ROWS = re.compile(r"^(time_text_embed|norm_out)\.|\.(img_mod|txt_mod)\.|\.img_mlp\.gate\.")


class _Padding:
    """Hooks of one linear layer: pad few rows before it, and drop the padding after it."""

    def __init__(self, layer: nn.Linear) -> None:
        self.rows = 0
        layer.register_forward_pre_hook(self.before)
        layer.register_forward_hook(self.after)

    def before(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x_RD = args[0]
        self.rows = len(x_RD)
        if x_RD.ndim != 2 or self.rows >= LEAST_ROWS:
            return None
        return (torch.cat([x_RD, x_RD.new_zeros(LEAST_ROWS - self.rows, x_RD.shape[1])]),)

    def after(self, layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output[: self.rows]


def keep_samples_apart(model: nn.Module) -> bool:
    """Change a Qwen-Image transformer so; without gradients only. Returns whether it can be done, else changes nothing.

    It cannot where experts are no plain FFNs of the CPU (a LoRA, quantised weights, another device): then draw samples
    one at a time. Samples of a batch must have texts of one length, of `LEAST_ROWS` tokens or more.
    """
    mixtures = [module for module in model.modules() if isinstance(module, MoE)]
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype not in DTYPES:
        return False
    if any(weights_of(mixture.experts) is None for mixture in mixtures):
        return False
    if any(mixture.rows_apart for mixture in mixtures):
        return True
    for mixture in mixtures:
        mixture.rows_apart = True
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and _FEW_ROWS.search(name):
            _Padding(module)
    return True
