"""Whether a picture is broken, by BRISQUE: statistics of neighbouring pixels and a regression on people's judgements.

[Mittal, Moorthy, Bovik 2012] The features are those of the package `brisque`, whose regression is read: svm.txt, and
the scale of the features out of normalize.pickle, of which names and numbers are read and nothing is run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lgamma
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import brentq
from scipy.signal import convolve2d

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.learned import Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value

SVM, SCALE = "svm.txt", "normalize.pickle"
FEATURES = 36
WINDOW, DEVIATION = 7, 7 / 6
"""Of the Gaussian that local means are taken with."""
LUMA = np.array([0.2125, 0.7154, 0.0721])
"""As scikit-image's rgb2gray, which the package calls."""
SHAPES = (0.1, 60.0)
"""Between these the shape of a distribution is looked for; a normal one has 2."""


@dataclass(frozen=True)
class Regression:
    """Support vectors (n, 36) with their weights (n,), the scale of the features, and two numbers of the kernel."""

    vectors: np.ndarray
    weights: np.ndarray
    gamma: float
    rho: float
    least: np.ndarray
    most: np.ndarray

    def __call__(self, features: np.ndarray) -> float:
        """The score of a picture's features (36,): 0 to 100 and beyond; lower is better."""
        scaled = -1 + 2 * (features - self.least) / (self.most - self.least)
        distances = ((self.vectors - scaled) ** 2).sum(axis=1)
        return float(self.weights @ np.exp(-self.gamma * distances) - self.rho)


class Brisque(Learned):
    """The score of the output alone."""

    name = "broken:brisque"
    measures = (Measure("broken_brisque", "lower", "BRISQUE: about 0 for a clean picture, 100 for a broken one"),)
    published = "the package brisque"
    licence = "Apache-2.0"
    files = (SVM, SCALE)
    is_batched = False
    packages = ("scipy",)

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """The output."""
        return {"output": Input("picture", pair.output)}

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Features of each picture; none of one without texture."""
        return [brisque_features(picture) for picture in contents]

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The score."""
        found = features["output"]
        if found is None:
            return {"broken_brisque": NoValue("undefined", "the picture has no texture, or is of a few pixels")}
        return {"broken_brisque": self.load()(found)}

    def read(self) -> Regression:
        """The regression."""
        return read_regression(self.backbone.folder)


def brisque_features(picture: Image.Image) -> np.ndarray | None:
    """(36,) at full and half size, or None where they cannot be told."""
    grey = (np.asarray(picture, dtype=np.float64) / 255) @ LUMA
    # The border alone would be the texture of a picture of one colour.
    if min(grey.shape) < 2 * WINDOW or np.ptp(grey) < 1 / 255:
        return None
    found = [number for size in (grey, halved(grey)) for number in _statistics(size)]
    return np.array(found) if np.isfinite(found).all() else None


def halved(grey: np.ndarray) -> np.ndarray:
    """Half the height and width (rounded to even) by cubic interpolation without a filter, as OpenCV's."""
    for axis in (0, 1):
        length = grey.shape[axis]
        left = 2 * np.arange(round(length / 2))
        taps = ((-1, -0.09375), (0, 0.59375), (1, 0.59375), (2, -0.09375))
        grey = sum(weight * np.take(grey, np.clip(left + step, 0, length - 1), axis=axis) for step, weight in taps)
    return grey


def _statistics(grey: np.ndarray) -> Iterator[float]:
    """The 18 numbers of one size."""
    y, x = np.indices((WINDOW, WINDOW)) - WINDOW // 2
    kernel = np.exp(-(x**2 + y**2) / (2 * DEVIATION**2))
    kernel /= kernel.sum()
    mean = convolve2d(grey, kernel, "same")
    spread = np.sqrt(np.abs(mean**2 - convolve2d(grey**2, kernel, "same")))
    n = (grey - mean) / (spread + 1 / 255)
    products = (n[:, :-1] * n[:, 1:], n[:-1] * n[1:], n[:-1, :-1] * n[1:, 1:], n[1:, :-1] * n[:-1, 1:])
    shape, _, left, right = _fit(n)
    yield from (shape, (left**2 + right**2) / 2)
    for product in products:
        shape, middle, left, right = _fit(product)
        yield from (shape, middle, left**2, right**2)


def _fit(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, mean, left and right deviation of an asymmetric generalised normal distribution; nan where it has none."""
    below, above = x[x < 0], x[x >= 0]
    if not below.size or not above.any():
        return (np.nan,) * 4
    left, right = float(np.sqrt((below**2).mean())), float(np.sqrt((above**2).mean()))
    ratio = np.abs(x).mean() ** 2 / (x**2).mean()
    share = left / right
    wanted = ratio * (share**3 + 1) * (share + 1) / (share**2 + 1) ** 2

    def excess(shape: float) -> float:
        return float(np.exp(2 * lgamma(2 / shape) - lgamma(1 / shape) - lgamma(3 / shape)) - wanted)

    if excess(SHAPES[0]) * excess(SHAPES[1]) > 0:
        return (np.nan,) * 4
    shape = float(brentq(excess, *SHAPES))
    scale = np.exp((lgamma(1 / shape) - lgamma(3 / shape)) / 2 + lgamma(2 / shape) - lgamma(1 / shape))
    return shape, float((right - left) * scale), left, right


def read_regression(folder: Path) -> Regression:
    """The regression of the package's folder. Raises CheckpointError for files that are not it."""
    try:
        head, _, body = (folder / SVM).read_text().partition("SV\n")
        about = dict(line.split(" ", 1) for line in head.strip().splitlines())
        rows = [line.split() for line in body.splitlines()]
        vectors = np.zeros((len(rows), FEATURES))
        for row, (_, *parts) in enumerate(rows):
            for part in parts:
                place, number = part.split(":")
                vectors[row, int(place) - 1] = float(number)
        scale = _numbers_of_pickle((folder / SCALE).read_bytes())
        found = Regression(
            vectors,
            np.array([float(row[0]) for row in rows]),
            float(about["gamma"]),
            float(about["rho"]),
            np.array(scale["min_"]),
            np.array(scale["max_"]),
        )
    except (ValueError, KeyError, IndexError, TypeError):
        raise CheckpointError(f"{SVM} or {SCALE} in {str(folder)!r} is not that of the package brisque.") from None
    if about.get("kernel_type") != "rbf" or not len(found.least) == len(found.most) == FEATURES:
        raise CheckpointError(f"{SVM} or {SCALE} in {str(folder)!r} is not that of the package brisque.")
    return found


def _numbers_of_pickle(data: bytes) -> dict[str, list[float]]:
    """The lists of numbers in a pickled dictionary by their names. The pickle is read as a text, and not run."""
    found: dict[str, list[float]] = {}
    name = ""
    for code, value, _ in pickletools.genops(data):
        if code.name == "SHORT_BINUNICODE":
            name = str(value)
        elif code.name in ("BINFLOAT", "BININT", "BININT1") and value is not None:
            found.setdefault(name, []).append(float(value))
    return found
