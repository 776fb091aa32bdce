"""What a made picture looks like beside its source, without a model: blank, copied, shifted.

An editor that fails often gives a picture all the same: one colour, the source again, or the right edit on a canvas
that has moved. Each check gives a number, and a threshold by task says what it means: a change of light changes all
blocks, an expression changes two. The thresholds were set on TagWorld's true targets (`docs/factory.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from tagmoe.data.check.shift import BLOCK as SHIFT_BLOCK
from tagmoe.data.check.shift import MIN_BLOCKS, measure_shift
from tagmoe.data.sources.native_tasks import Edit

Look = Literal["blank", "copied", "shifted"]
LOOKS: tuple[Look, ...] = get_args(Look)
VERSION = 1
"""Raise this when a change of the code gives another number for the same pictures."""
SIDE = 512
"""Longest side at which pictures are compared."""
BLOCK = 8
FAR = 8
"""Grey levels from which a pixel has another colour than most of the picture."""
REACH = 8
"""Longest shift that is looked for in a picture too small for `measure_shift`, in pixels."""
PEAKS = 6
"""Shifts that are tried: those at which the edges of both pictures agree best."""
ALIKE = 0.8
"""Correlation from which a block counts as equal in both pictures."""
SAME = 3.0
"""Most grey levels by which the means of two blocks differ in a picture that was only moved."""
LEAST_MOVED = 0.1
"""Below the thresholds of all tasks: a lower number is told as 0, which spares most pictures the search."""
LEAST_SHIFT = 2
"""Shorter shifts are no fault: styles draw outlines that lie a pixel beside the edge."""
STRUCTURE = 16.0
"""Variance of grey levels from which a block counts as one with structure."""
WORDS: dict[Look, str] = {
    "blank": "blank: nearly one colour",
    "copied": "copied: nearly nothing changed",
    "shifted": "shifted: the whole picture moved",
}
"""The reasons for which a picture is dropped."""

DEFAULT: dict[Look, float] = {"blank": 0.01, "copied": 2.5, "shifted": 0.4}
THRESHOLDS: dict[Edit, dict[Look, float | None]] = {
    "add": {"copied": 4.5, "shifted": 0.12},
    "remove": {"copied": 4.5, "shifted": 0.25},
    "replace": {"copied": 4.5, "shifted": 0.35},
    "background": {"copied": 2.8, "shifted": 0.2},
    "light": {"copied": 25.0, "shifted": 0.12},
    "style": {"copied": 14.0, "shifted": 0.45},
    "pose": {"copied": 3.9, "shifted": 0.12},
    "viewpoint": {"copied": 20.0, "shifted": 0.25},
    "move": {"copied": 8.0, "shifted": 0.15},
    "control map": {"copied": 40.0, "shifted": 0.12},
    "subject": {"copied": 30.0, "shifted": 0.15},
    "style reference": {"copied": 14.0, "shifted": 0.25},
}
"""By task, where it is another threshold than in DEFAULT; None: the check says nothing of this task."""


@dataclass(frozen=True)
class Limits:
    """The thresholds of a plan: those by task above, with what a plan says of them."""

    changes: Mapping[str, Mapping[str, float | None]]

    def of(self, edit: Edit | None) -> dict[Look, float | None]:
        """The threshold of each check for a task; None switches a check off."""
        found: dict[Look, float | None] = {**DEFAULT, **(THRESHOLDS.get(edit, {}) if edit else {})}
        for name in ("all", edit or ""):
            found |= {look: value for look, value in self.changes.get(name, {}).items() if look in LOOKS}  # type: ignore[misc]
        return found


def numbers(source: np.ndarray | None, output: np.ndarray, edit: Edit | None = None) -> dict[Look, float]:
    """The number of each check, of (H, W, 3) uint8; without a source only that of `blank`.

    blank: share of pixels of another colour than most; a low one is blank. Where something is removed, the ground may
    be all that is left: then 1 if it is the source's. copied: how much the mean of a colour in a
    block of 8x8 pixels changed where it changed most, 0 to 255; a low one is a copy. shifted: share of the blocks with
    structure that are equal only after a shift of the whole picture, less those that are equal without; a high one is
    shifted.
    """
    output = _small(output)
    found: dict[Look, float] = {"blank": _another_colour(output)}
    if source is not None:
        source = _fitted(source, output.shape[:2])
        if edit == "remove" and np.abs(_usual(output) - _usual(source)).max() <= FAR:
            found["blank"] = 1.0
        found["copied"] = _most_changed(source, output)
        found["shifted"] = _moved(_grey(source), _grey(output))
    return found


def faults(found: Mapping[Look, float], limits: Mapping[Look, float | None]) -> list[Look]:
    """The checks that a picture fails."""
    wrong: list[Look] = []
    for look, value in found.items():
        limit = limits[look]
        if limit is not None and (value > limit if look == "shifted" else value < limit):
            wrong.append(look)
    return wrong


def _another_colour(output: np.ndarray) -> float:
    return float((np.abs(output - _usual(output)).max(axis=2) > FAR).mean())


def _usual(picture: np.ndarray) -> np.ndarray:
    """The median of each colour."""
    return np.median(picture.reshape(-1, 3), axis=0)


def _most_changed(source: np.ndarray, output: np.ndarray) -> float:
    height, width = (max(BLOCK, side // BLOCK * BLOCK) for side in output.shape[:2])
    if min(output.shape[:2]) < BLOCK:
        return float(np.abs(output.astype(np.float32) - source).max())
    difference = (output.astype(np.float32) - source)[:height, :width]
    means = difference.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(1, 3))
    return float(np.abs(means).max())


def _moved(source: np.ndarray, output: np.ndarray) -> float:
    height, width = output.shape
    if (height // SHIFT_BLOCK) * (width // SHIFT_BLOCK) >= MIN_BLOCKS:
        shift = measure_shift(source, output)
        return 0.0 if shift is None or np.hypot(*shift) < 1 else 1.0
    if min(height, width) < 4 * REACH:
        return 0.0
    (still,), (differs,) = _compared(source, output, [(0, 0)])
    if still >= 1 - LEAST_MOVED:
        return 0.0  # a shift could win no more blocks than are left
    alike, others = _compared(source, output, _likely(source, output))
    if differs >= SAME > others.min():
        return 1.0
    return max(0.0, float(alike.max() - max(still, 0.0)))


def _likely(source: np.ndarray, output: np.ndarray) -> list[tuple[int, int]]:
    """The shifts, but none, at which the edges of the two pictures agree best."""
    before, after = (np.fft.rfft2(_edges(grey)) for grey in (source, output))
    surface = np.fft.irfft2(after * before.conj(), s=source.shape)
    window = np.roll(surface, (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1].copy()
    near = slice(REACH - LEAST_SHIFT + 1, REACH + LEAST_SHIFT)
    window[near, near] = -np.inf
    order = np.argsort(window, axis=None)[::-1][:PEAKS]
    return [(int(place // (2 * REACH + 1)) - REACH, int(place % (2 * REACH + 1)) - REACH) for place in order]


def _edges(grey: np.ndarray) -> np.ndarray:
    down, right = np.gradient(grey)
    edges = np.hypot(down, right)
    return np.asarray(edges - edges.mean(), np.float32)


def _compared(
    source: np.ndarray, output: np.ndarray, shifts: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each shift, undone: (shifts,) the share of equal blocks among those with structure in either picture, -1 where
    none has any, and (shifts,) how far the means of two blocks are apart where they are farthest.

    The border came into view with a shift, so it is left out of every comparison, whatever the shift.
    """
    rows, columns = (slice(REACH, side - REACH) for side in output.shape)
    moved = [
        source[rows.start - down : rows.stop - down, columns.start - right : columns.stop - right]
        for down, right in shifts
    ]
    first, second = np.stack([_blocks(one) for one in moved]), _blocks(output[rows, columns])
    means, mean = first.mean(axis=2), second.mean(axis=1)
    first, second = first - means[..., None], second - mean[:, None]
    spread, other = np.square(first).mean(axis=2), np.square(second).mean(axis=1)
    correlation = np.einsum("sbp,bp->sb", first, second) / BLOCK**2 / np.sqrt(np.maximum(spread * other, 1e-6))
    alike = (np.minimum(spread, other) > STRUCTURE) & (correlation > ALIKE)
    either = (np.maximum(spread, other) > STRUCTURE).sum(axis=1)
    shares = np.where(either > 0, alike.sum(axis=1) / np.maximum(either, 1), -1.0)
    return shares, np.abs(means - mean).max(axis=1)


def _blocks(grey: np.ndarray) -> np.ndarray:
    height, width = (side // BLOCK * BLOCK for side in grey.shape)
    cut = grey[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return cut.transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


def _small(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    return picture if scale >= 1 else _fitted(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _fitted(picture: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX))
