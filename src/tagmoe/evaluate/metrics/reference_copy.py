"""How much of a reference reappears in the output as it is, at any place, size and turn.

The paper says of an editor that it copies references (sec. 4.3); likeness to the reference alone rewards that. [ours]
Corners of both pictures are described by small turned patches [multi-scale oriented patches, Brown et al. 2005]; where
enough of them agree on one place, size and turn, the reference is laid there and compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from tagmoe.evaluate.metrics.metric import Measure, Pair, Value, lacking

LONG_SIDE = 320
"""Both pictures are resized to this first."""
LEVELS = 6
"""Sizes at which corners are looked for, each smaller by the root of two."""
PER_LEVEL = 120
PATCH, SPACING = 8, 3.0
"""A patch is 8x8 samples, 3 pixels apart."""
LIKE = 0.85
"""Least correlation of two patches that match."""
NEAR = 4.0
"""Pixels that a corner may lie off."""
LEAST_CORNERS = 8
"""So many corners agree by chance in none of the pairs of different photographs that were tried (docs/metrics.md)."""
LEVELS_OFF = 20.0
"""A pixel is the same when its colours are within this, of 255, after a blur of about a pixel."""


@dataclass(frozen=True)
class Corners:
    """Places (n,) as complex numbers x + iy, sizes and turns (n,) as complex numbers, patches (n, 64) of length 1."""

    places: np.ndarray
    turns: np.ndarray
    patches: np.ndarray


class ReferenceCopy:
    """The share of the reference's area that is found; the most over all references."""

    name = "reference-copy"
    version = 1
    measures = (
        Measure("reference_copy", "lower", "share of the reference that is in the output as it is", kind="share"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The share; not applicable without a reference."""
        count = len(pair.case.refs)
        if not count:
            return lacking(self.measures, "not_applicable", "the case has no reference")
        output = _resized(pair.output)
        corners = corners_of(output)
        shares = [share_found(_resized(pair.reference(place)), output, corners) for place in range(count)]
        return {"reference_copy": max(shares)}


def share_found(reference: np.ndarray, output: np.ndarray, corners: Corners | None = None) -> float:
    """The share of the pixels of a reference (H, W, 3) that are in the output (h, w, 3) at one place, size and turn.

    Both are float32 of 0 to 255. corners: of the output, where they are known.
    """
    placed = place_of(corners_of(reference), corners if corners is not None else corners_of(output))
    if placed is None:
        return 0.0
    turn, shift = placed
    # Blurred alike: by a pixel of the output.
    sharp = [ndimage.gaussian_filter(output[..., channel], 1.0) for channel in range(3)]
    y, x = np.indices(reference.shape[:2])
    at = turn * (x + 1j * y) + shift
    inside = (at.real >= 0) & (at.imag >= 0) & (at.real <= output.shape[1] - 1) & (at.imag <= output.shape[0] - 1)
    off = np.zeros(reference.shape[:2])
    for channel in range(3):
        blurred = ndimage.gaussian_filter(reference[..., channel], 1.0 / abs(turn))
        found = ndimage.map_coordinates(sharp[channel], [at.imag, at.real], order=1, mode="nearest")
        off = np.maximum(off, np.abs(found - blurred))
    return float((inside & (off <= LEVELS_OFF)).mean())


def place_of(reference: Corners, output: Corners) -> tuple[complex, complex] | None:
    """(turn, shift), where a place z of the reference lies at turn * z + shift in the output; None where it is not."""
    if min(len(reference.places), len(output.places)) < LEAST_CORNERS:
        return None
    likeness = reference.patches @ output.patches.T
    best = likeness.argmax(axis=1)
    mutual = likeness.argmax(axis=0)[best] == np.arange(len(best))
    first = np.flatnonzero(mutual & (likeness[np.arange(len(best)), best] >= LIKE))
    if len(first) < LEAST_CORNERS:
        return None
    a, b = reference.places[first], output.places[best[first]]
    # One match says where, how large and how turned: each is a guess, and the others vote.
    turns = output.turns[best[first]] / reference.turns[first]
    shifts = b - turns * a
    errors = np.abs(turns[:, None] * a + shifts[:, None] - b)
    # A guess from one corner is rough far away from it.
    votes = (errors <= 3 * NEAR).sum(axis=1)
    turn, shift = turns[votes.argmax()], shifts[votes.argmax()]
    reach = 3 * NEAR
    agree = np.zeros(len(a), dtype=bool)
    for _ in range(6):
        agree = np.abs(turn * a + shift - b) <= reach
        if len(set(a[agree].round())) < LEAST_CORNERS or len(set(b[agree].round())) < LEAST_CORNERS:
            return None
        middle_a, middle_b = a[agree].mean(), b[agree].mean()
        spread = a[agree] - middle_a
        if not np.abs(spread).max() > 2 * NEAR:
            return None
        turn = complex((np.conj(spread) * (b[agree] - middle_b)).sum() / (np.abs(spread) ** 2).sum())
        shift, reach = complex(middle_b - turn * middle_a), max(NEAR / 2, reach / 1.5)
    return (turn, shift) if abs(turn) > 0.05 else None


def corners_of(picture: np.ndarray) -> Corners:
    """Corners of a picture (H, W, 3) at all sizes."""
    grey = Image.fromarray(picture.mean(axis=2).astype(np.float32))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for level in range(LEVELS):
        scale = 2 ** (level / 2)
        size = (round(grey.width / scale), round(grey.height / scale))
        if min(size) < PATCH * SPACING:
            break
        pixels = np.asarray(grey.resize(size, Image.Resampling.BICUBIC))
        found.append(_of_level(pixels, grey.width / size[0]))
    if not found:
        return Corners(np.empty(0), np.empty(0), np.empty((0, PATCH * PATCH)))
    places, turns, patches = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Corners(places, turns, patches)


def _of_level(pixels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    smooth = ndimage.gaussian_filter(pixels, 1.0)
    dy, dx = np.gradient(smooth)
    xx, yy, xy = (ndimage.gaussian_filter(product, 1.5) for product in (dx * dx, dy * dy, dx * dy))
    strength = (xx * yy - xy**2) / (xx + yy + 1e-6)
    peaks = (strength == ndimage.maximum_filter(strength, size=7)) & (strength > 1.0)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-strength[rows, columns], kind="stable")[:PER_LEVEL]
    rows, columns = rows[order], columns[order]
    # The direction of the brightness around it, over a larger window so that it is steady.
    wide = ndimage.gaussian_filter(pixels, 3.0)
    wide_y, wide_x = np.gradient(wide)
    direction = wide_x[rows, columns] + 1j * wide_y[rows, columns]
    direction = direction / np.maximum(np.abs(direction), 1e-9)
    steps = (np.arange(PATCH) - (PATCH - 1) / 2) * SPACING
    grid = (steps[None, :] + 1j * steps[:, None]).ravel()
    at = (columns + 1j * rows)[:, None] + direction[:, None] * grid
    patches = ndimage.map_coordinates(ndimage.gaussian_filter(pixels, 1.5), [at.imag, at.real], order=1, mode="nearest")
    patches = patches - patches.mean(axis=1, keepdims=True)
    length = np.linalg.norm(patches, axis=1)
    kept = (length > PATCH * 4.0) & (np.abs(direction) > 0.5)
    places = (columns + 0.5 + 1j * (rows + 0.5)) * scale - (0.5 + 0.5j)
    return places[kept], (scale * direction)[kept], patches[kept] / length[kept, None]


def _resized(picture: Image.Image) -> np.ndarray:
    scale = LONG_SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
