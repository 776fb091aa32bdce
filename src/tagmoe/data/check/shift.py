"""Measure the shift between two pictures of one scene, by phase correlation (Kuglin and Hines, 1975).

A pair whose target was cropped or resized slightly differently teaches an editor to shift the whole picture.
"""

from __future__ import annotations

import numpy as np

SEARCH = 1 / 16
"""The longest shift that is searched, as a share of the longer side: a longer one is an edit."""
ALIKE = 0.7
"""Correlation from which a block counts as equal in both pictures, whatever its brightness and contrast."""
ALIKE_SHARE = 0.5
"""Share of the blocks with structure that must be equal after the shift is undone."""
STRUCTURE = 9.0
"""Variance of grey levels from which a block counts as one with structure."""
STRUCTURE_SHARE = 0.2
"""Share of blocks with structure below which no shift is reported: one moved object could explain it."""
BLOCK = 16
"""Side of a block in pixels."""
MIN_BLOCKS = 48
"""With fewer blocks, a few may be equal by chance, and no shift is reported."""
SMOOTHING = 0.12
"""Width of the low pass in cycles a pixel. It removes noise, and a broad peak gives fractions of a pixel."""


def measure_shift(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """The shift (dx, dy) in pixels from `first` to `second`, right and down positive; grey (H, W) of equal shape.

    None if no shift makes them mostly equal, or if they are too small or too smooth to tell.
    """
    height, width = (side // BLOCK * BLOCK for side in first.shape)
    if height * width < MIN_BLOCKS * BLOCK**2:
        return None
    first, second = (np.asarray(grey[:height, :width], dtype=np.float32) for grey in (first, second))
    shift = _peak(first, second)
    return shift if shift is not None and _is_credible(first, second, shift) else None


def _peak(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """The maximum of the phase correlation, to fractions of a pixel by a parabola through its logarithm.

    None if it lies at the border of the search.
    """
    window = np.outer(*(np.hanning(side) for side in first.shape)).astype(np.float32)
    before, after = (np.fft.rfft2((grey - grey.mean()) * window) for grey in (first, second))
    cross = after * before.conj()
    strength = np.abs(cross)
    rows, columns = _frequencies(first.shape)
    cross *= np.exp(-(rows**2 + columns**2) / (2 * SMOOTHING**2)) / (strength + 1e-3 * strength.mean() + 1e-6)
    reach = max(4, int(max(first.shape) * SEARCH))
    surface = np.roll(np.fft.irfft2(cross, s=first.shape), (reach, reach), (0, 1))
    surface = np.log(np.maximum(surface[: 2 * reach + 1, : 2 * reach + 1], 1e-9))
    y, x = (int(place) for place in np.unravel_index(surface.argmax(), surface.shape))
    if not (0 < x < 2 * reach and 0 < y < 2 * reach):
        return None
    return x - reach + _vertex(surface[y, :], x), y - reach + _vertex(surface[:, x], y)


def _vertex(line: np.ndarray, place: int) -> float:
    left, middle, right = (float(value) for value in line[place - 1 : place + 2])
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend else 0.0


def _is_credible(first: np.ndarray, second: np.ndarray, shift: tuple[float, float]) -> bool:
    """Whether undoing the shift makes most blocks with structure equal, and more equal than before."""
    dx, dy = shift
    rows, columns = _frequencies(first.shape)
    moved = np.fft.irfft2(np.fft.rfft2(first) * np.exp(-2j * np.pi * (columns * dx + rows * dy)), s=first.shape)
    # Ignore pixels near the border, which came into view with the shift.
    edge = int(np.ceil(max(abs(dx), abs(dy)))) + 1
    inner = (slice(edge, -edge), slice(edge, -edge))
    before, structured = _correlation(first[inner], second[inner])
    after, _ = _correlation(moved[inner], second[inner])
    if structured.size == 0 or structured.mean() < STRUCTURE_SHARE:
        return False
    alike = structured & (after > ALIKE)
    better = (after > before)[alike].mean() if alike.any() else 0.0
    # Noise makes a shift of a fraction of a pixel, before and after which the blocks are equally alike: accept it.
    return bool(alike.sum() >= ALIKE_SHARE * structured.sum() and (better >= 0.5 or np.hypot(dx, dy) < 0.5))


def _correlation(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each block of two pictures, and which blocks have structure in both."""
    mean, other = _blocks(first), _blocks(second)
    variance = _blocks(first * first) - mean**2
    others = _blocks(second * second) - other**2
    together = _blocks(first * second) - mean * other
    value = together / np.sqrt(np.maximum(variance * others, 1e-6))
    return value, np.minimum(variance, others) > STRUCTURE


def _blocks(values: np.ndarray) -> np.ndarray:
    """The mean of each whole block."""
    height, width = (side // BLOCK for side in values.shape)
    return values[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK).mean((1, 3))


def _frequencies(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    return rows.astype(np.float32), columns.astype(np.float32)
