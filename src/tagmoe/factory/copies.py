"""Roots that are crops or changed copies of earlier ones, by SSCD: a hash of the whole picture does not see a crop."""

from __future__ import annotations

import numpy as np

from tagmoe.data.store.record import Picture
from tagmoe.errors import ImageError
from tagmoe.evaluate.metrics.reference_onnx import SubjectSscd
from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics
from tagmoe.factory.plan import Copies
from tagmoe.pictures import load_image


class KnownCopies:
    """The vectors of the roots so far. Raises MissingError where the weights are not there."""

    def __init__(self, settings: Copies) -> None:
        self._alike = settings.alike
        name = SubjectSscd.name
        (metric,) = make_metrics([name], LearnedSettings({name: settings.weights}, batch=1))
        assert isinstance(metric, SubjectSscd)
        self._metric = metric
        self._vectors: list[np.ndarray] = []

    def vector(self, picture: Picture) -> np.ndarray | None:
        """The unit vector of a picture, float32; None for one that cannot be read."""
        try:
            prepared = self._metric.prepare(load_image(picture.data))
        except ImageError:
            return None
        return np.asarray(self._metric.encode("picture", [prepared])[0], dtype=np.float32)

    def has_like(self, vector: np.ndarray) -> bool:
        """Whether an earlier root is like this one."""
        return bool(self._vectors) and float(np.max(np.stack(self._vectors) @ vector)) >= self._alike

    def add(self, texts: list[str]) -> None:
        """Remember vectors, as `text_of` writes them."""
        self._vectors += [np.frombuffer(bytes.fromhex(text), np.float32) for text in texts]

    def drop(self, count: int) -> None:
        """Forget the last so many."""
        del self._vectors[len(self._vectors) - count :]


def text_of(vector: np.ndarray) -> str:
    """A vector as hexadecimal digits."""
    return vector.tobytes().hex()
