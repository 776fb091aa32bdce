"""A tiny transformer of the real class and one batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from support.tiny_transformer import dense_transformer, mixture_transformer

from tagmoe.model.transformer import TagMoETransformer2DModel


@pytest.fixture
def dense() -> QwenImageTransformer2DModel:
    return dense_transformer()


@pytest.fixture
def build() -> Callable[..., TagMoETransformer2DModel]:
    """Make a mixture in the last two of four blocks; keyword arguments replace its settings."""
    return mixture_transformer


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
