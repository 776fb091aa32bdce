"""Make what a transformer computes of a sample on a CPU independent of the other samples of its batch, bit for bit.

A batch has more rows in every matrix product, and a CPU chooses its kernel by the rows. Two choices change bits: one to
three rows take a kernel of their own (`LEAST_ROWS`), which the layers of the time step meet, and an expert with few
tokens; and the mixtures leave torch's products for oneDNN's from a number of tokens on. With both choices taken away
every row gets the same numbers in any batch. What stays: text of another length is padded, which shifts tokens.
"""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import nn

from tagmoe.model.cpu.experts import DTYPES, LEAST_ROWS, weights_of
from tagmoe.model.moe import MoE

# The layers that see one row a sample. A gate sees one a token, but for its projection of the pooled text.
_FEW_ROWS = re.compile(r"^(time_text_embed|norm_out)\.|\.(img_mod|txt_mod)\.|\.img_mlp\.gate\.proj_text$")


class _Padded(nn.Linear):
    """A linear layer that pads few rows for its product. A class costs less than hooks, which every step would call."""

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        rows = len(x_RD)
        if x_RD.ndim != 2 or not 0 < rows < LEAST_ROWS:
            return super().forward(x_RD)
        # Repeating takes one operation, and zeros would take two: on a small model operations are what costs.
        padded: torch.Tensor = super().forward(x_RD.repeat(-(-LEAST_ROWS // rows), 1))
        return padded[:rows]


@cache
def _padded(kind: type[nn.Linear]) -> type[nn.Linear]:
    """The class of a layer, with padding before its own forward."""
    return _Padded if kind is nn.Linear else type(f"Padded{kind.__name__}", (_Padded, kind), {})


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
            module.__class__ = _padded(type(module))  # type: ignore[arg-type]
    return True
