"""A tiny transformer of the real class, dense and as a mixture."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel

from tagmoe.model.transformer import TagMoETransformer2DModel

TINY = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 4,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}


def dense_transformer() -> QwenImageTransformer2DModel:
    """The dense model with random weights, the same every time."""
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(**TINY).eval()


def mixture_transformer(**overrides: Any) -> TagMoETransformer2DModel:
    """A mixture in the last two of four blocks, its gates decided enough that experts really differ by token."""
    torch.manual_seed(0)
    model = TagMoETransformer2DModel(**(TINY | {"num_moe_blocks": 2} | overrides)).eval()
    for name, parameter in model.named_parameters():
        if ".gate.proj_out.weight" in name:
            torch.nn.init.normal_(parameter)
    return model
