"""Instructions that say one thing in other words, by a sentence encoder: words in common do not show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.errors import MissingError
from tagmoe.evaluate.metrics.conse import sentence_encoder
from tagmoe.evaluate.metrics.learned import Backbone
from tagmoe.factory.plan import Sentences

KEPT = 4096
"""Vectors that are kept: each instruction is compared with all others for its root."""


class Meanings:
    """Compares instructions. The encoder is read with the first of them."""

    def __init__(self, settings: Sentences) -> None:
        """Raises MissingError where the folder is not there."""
        if not Path(settings.weights).is_dir():
            raise MissingError(f"There is no folder {settings.weights!r}; give one of a sentence encoder.")
        self._settings = settings
        self._vector = lru_cache(KEPT)(self._encoded)

    @cached_property
    def _encode(self) -> Callable[[list[str]], Any]:
        return sentence_encoder(Backbone.find(self._settings.weights))

    def _encoded(self, text: str) -> np.ndarray:
        import torch

        # Each by itself: in a batch it would be padded, which changes the last bits.
        with torch.inference_mode():
            return np.asarray(self._encode([text])[0].numpy())

    def has_like(self, text: str, others: Sequence[str]) -> bool:
        """Whether one of the others says the same."""
        if not others:
            return False
        likeness = np.stack([self._vector(other) for other in others]) @ self._vector(text)
        return bool(likeness.max() >= self._settings.alike)


def meanings_of(settings: Sentences | None) -> Meanings | None:
    """What compares the instructions of a step; None where a plan names no encoder."""
    return None if settings is None else Meanings(settings)
