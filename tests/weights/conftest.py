"""A tiny transformer of the real class, as it is saved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
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
