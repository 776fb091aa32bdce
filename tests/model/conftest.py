"""A tiny transformer of the real class and one batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
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


@pytest.fixture
def dense() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(**TINY).eval()


@pytest.fixture
def build() -> Callable[..., TagMoETransformer2DModel]:
    """A mixture in the last two of four blocks, its gates decided enough that experts really differ by token."""

    def make(**overrides: Any) -> TagMoETransformer2DModel:
        torch.manual_seed(0)
        model = TagMoETransformer2DModel(**(TINY | {"num_moe_blocks": 2} | overrides)).eval()
        for name, parameter in model.named_parameters():
            if ".gate.proj_out.weight" in name:
                torch.nn.init.normal_(parameter)
        return model

    return make


@pytest.fixture
def inputs() -> dict[str, Any]:
    """Two samples: a 3x5 target and a 2x4 reference, seven text tokens."""
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 23, 16, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 24, generator=generator),
        "timestep": torch.tensor([0.3, 0.8]),
        "img_shapes": [[(1, 3, 5), (1, 2, 4)]] * 2,
    }
