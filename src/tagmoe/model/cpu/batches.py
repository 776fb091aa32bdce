"""Make what a transformer computes of a sample on a CPU independent of the other samples of its batch, bit for bit.

A batch has more rows in every matrix product, and a CPU chooses its kernel by the rows. Two choices change bits: one to
three rows take a kernel of their own (`LEAST_ROWS`), which an expert with few tokens meets, and the layers of the time
step; and the mixtures leave torch's products for oneDNN's from a number of tokens on. So few tokens are padded, the
mixtures keep to one kind of product, and the layers of the time step see one row, since the samples of a call share
their time. Then every row gets the same numbers in any batch. What stays: text of another length is padded, which
shifts tokens.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenTimestepProjEmbeddings
from torch import nn

from tagmoe.model.cpu.experts import DTYPES, weights_of
from tagmoe.model.moe import MoE

# The layers that see one row a sample. A gate sees one a token, but for its projection of the pooled text.
_FEW_ROWS = re.compile(r"^(time_text_embed|norm_out)\.|\.(img_mod|txt_mod)\.|\.img_mlp\.gate\.proj_text$")


class _OneRow(nn.Linear):
    """A linear layer of a row for each sample, one row at a time: the kernel of one row is not that of several."""

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        if x_RD.ndim != 2 or len(x_RD) <= 1:
            return super().forward(x_RD)
        # Cloned, because a kernel may also depend on where in memory a row begins.
        return torch.cat([super(_OneRow, self).forward(row.clone()) for row in x_RD.split(1)])


class _OneTime(nn.Module):
    """An embedding of time steps that gives one row where all samples have the same time.

    The blocks spread it over the samples. With `times` 2 there are as many zeros behind the times (`zero_cond_t`).
    """

    times = 1

    def forward(self, timestep: torch.Tensor, *rest: Any) -> torch.Tensor:
        times_KB = timestep.view(self.times, -1)
        is_one = times_KB.shape[1] > 1 and bool((times_KB == times_KB[:, :1]).all())
        embedded: torch.Tensor = super().forward(times_KB[:, 0] if is_one else timestep, *rest)
        return embedded


_MADE: dict[tuple[Any, Any], Any] = {}


def _with(before: Any, kind: Any) -> Any:
    """The class of a module, with `before` in front of its own forward; made once."""
    if kind is nn.Linear:
        return before
    if (before, kind) not in _MADE:
        _MADE[before, kind] = type(f"{before.__name__.strip('_')}{kind.__name__}", (before, kind), {})
    return _MADE[before, kind]


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
            module.__class__ = _with(_OneRow, type(module))
    embedding: Any = model.time_text_embed
    if type(embedding) is QwenTimestepProjEmbeddings and not embedding.use_additional_t_cond:
        embedding.__class__ = _with(_OneTime, type(embedding))
        embedding.times = 2 if model.zero_cond_t else 1
    return True
