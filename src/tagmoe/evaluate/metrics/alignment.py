"""Whether the whole picture moved: shift and zoom of the output against the source. Users of editors notice it first.

The output is zoomed back about its centre by each of some factors; the phase correlation with the source (Kuglin and
Hines 1975) gives the shift of each, and the factor with the highest peak is taken. A local edit lowers the peak and
does not move it. Pictures of few things, such as TagWorld's, tell too little. [ours: resolution, range and limits]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.metric import Measure, Pair, Value, lacking

COARSE, FINE = 128, 384
"""Longer side of the pictures that are compared, in pixels: for the search and for the result."""
RANGE, STEP = 0.12, 0.015
"""Zooms of 0.88 to 1.12 are looked for; the search goes by this step."""
LEAST_PEAK = 0.12
"""A lower peak is that of pictures that do not match: unrelated ones of 800x600 pixels reach 0.06."""
LEAST_SIDE = 128
"""Smaller pictures are not compared: two unrelated ones of 64x64 pixels reach a peak of 0.5."""
_SMOOTH = 0.22
"""Width of the band of frequencies that count, as a share of the sampling frequency."""


@dataclass(frozen=True)
class Aligned:
    """How the output lies on the source. right, down: pixels of the source. zoom: 1.01 is 1 % larger. peak: 0 to 1."""

    right: float
    down: float
    zoom: float
    peak: float


class Alignment:
    """Shift and zoom of the whole picture. Undefined where too little of the source is left to tell."""

    name = "alignment"
    version = 1
    measures = (
        Measure("shift", "lower", "how far the whole picture moved, pixels of the source", 2),
        Measure("zoom", "lower", "how much the whole picture was enlarged or shrunk, per cent", 2),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The two values; not applicable without a source that is to be kept."""
        if pair.source is None or "control" in pair.case.meta:
            return lacking(self.measures, "not_applicable", "the case has no source that is to be kept")
        if min(pair.source.size) < LEAST_SIDE:
            return lacking(self.measures, "undefined", f"the source is smaller than {LEAST_SIDE} pixels")
        found = align(pair.source, pair.beside(pair.source, "source"))
        if found.peak < LEAST_PEAK:
            return lacking(self.measures, "undefined", "too little of the source is left to lay one on the other")
        return {"shift": float(np.hypot(found.right, found.down)), "zoom": 100 * abs(found.zoom - 1)}


def align(source: Image.Image, output: Image.Image) -> Aligned:
    """Lay the output on the source; both of one size."""
    source, output = source.convert("L"), output.convert("L")
    search = _Correlation(_shrunk(source, COARSE), _shrunk(output, COARSE))
    factors = 1 + STEP * np.arange(-round(RANGE / STEP), round(RANGE / STEP) + 1)
    zoom = _best(search, factors)
    fine = _Correlation(_shrunk(source, FINE), _shrunk(output, FINE))
    step = STEP
    while step > 0.001:
        step /= 3
        zoom = _best(fine, zoom + step * np.arange(-2, 3))
    # An unmoved picture is unmoved to the last digit: interpolation at a factor near 1 must not decide.
    if fine.at(1.0).peak >= fine.at(zoom).peak:
        zoom = 1.0
    found = fine.at(zoom)
    # The shift was found in the output that is zoomed back.
    ratio = zoom * source.width / fine.width
    return Aligned(found.right * ratio, found.down * ratio, zoom, found.peak)


def _best(correlation: _Correlation, factors: Sequence[float] | np.ndarray) -> float:
    return float(max(factors, key=lambda factor: correlation.at(float(factor)).peak))


def _shrunk(picture: Image.Image, side: int) -> np.ndarray:
    """(H, W) float32 with a longer side of at most `side`."""
    ratio = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    small = picture if ratio == 1.0 else picture.resize(size, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


class _Correlation:
    """Phase correlation of a source with an output that is zoomed back."""

    def __init__(self, source: np.ndarray, output: np.ndarray) -> None:
        height, self.width = source.shape
        # The border is faded out, because the transform joins opposite sides.
        self._window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(self.width + 2)[1:-1]).astype(np.float32)
        down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(self.width)
        self._band = np.exp(-(down**2 + right**2) / (2 * (_SMOOTH / 2) ** 2))
        self._source = self._spectrum(source)
        self._output = output
        self._known: dict[float, Aligned] = {}

    def at(self, zoom: float) -> Aligned:
        """The shift at a zoom, and the height of the peak."""
        if zoom not in self._known:
            self._known[zoom] = self._at(zoom)
        return self._known[zoom]

    def _at(self, zoom: float) -> Aligned:
        product = self._spectrum(_zoomed_back(self._output, zoom)) * self._source.conj()
        size = np.abs(product)
        # Frequencies that the pictures hardly have are noise: they count by how much there is of them.
        weight = self._band * size / (size + 1e-3 * size.mean() + 1e-12)
        surface = np.fft.irfft2(weight * product / (size + 1e-12), s=self._window.shape)
        full = np.fft.irfft2(weight, s=self._window.shape)[0, 0]
        row, column = np.unravel_index(surface.argmax(), surface.shape)
        if full <= 0 or surface[row, column] <= 0:
            return Aligned(0.0, 0.0, zoom, 0.0)
        down = _between(surface[:, column], int(row))
        right = _between(surface[row], int(column))
        return Aligned(right, down, zoom, float(surface[row, column] / full))

    def _spectrum(self, picture: np.ndarray) -> np.ndarray:
        return np.fft.rfft2((picture - picture.mean()) * self._window)


def _zoomed_back(picture: np.ndarray, zoom: float) -> np.ndarray:
    """The picture about its centre at 1 / zoom of its size."""
    if zoom == 1.0:
        return picture
    from scipy.ndimage import affine_transform

    centre = (np.array(picture.shape) - 1) / 2
    found: np.ndarray = affine_transform(
        picture, np.array([zoom, zoom]), offset=centre - zoom * centre, order=1, mode="nearest"
    )
    return found


def _between(line: np.ndarray, place: int) -> float:
    """The place of a peak between the samples, by a parabola through three of them; negative from the middle on."""
    before, at, after = (float(line[(place + step) % len(line)]) for step in (-1, 0, 1))
    bend = before - 2 * at + after
    offset = 0.0 if bend == 0 or before == after else (before - after) / (2 * bend)
    return (place if place <= len(line) // 2 else place - len(line)) + offset
