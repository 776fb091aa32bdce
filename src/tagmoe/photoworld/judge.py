"""Judge an edit by its exact mask: changed where it should be, unchanged outside, and the target reached.

All is read from pixels, against the picture before and the true target. Two numbers say how far an output went:

- way: the part of the way from before to target, <out - before, target - before> / |target - before|^2.
- rest: what is still missing or too much, |out - target| / |target - before|.

A copy has way 0 and rest 1, the target 1 and 0. Where the ground that a thing hid, or the detail that damage took, can
only be guessed, the limits are wider: what was invented need not be what was there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tagmoe.errors import ImageError
from tagmoe.pictures import load_image

from .looks import luma
from .sample import Sample

BLOCK = 8
"""Side of the blocks, in pixels, of which the share of unchanged ones is counted."""
CHANGED_BLOCK = 26.0
"""Root mean square error, in grey levels, from which a block outside the mask counts as changed."""
LEAST_UNCHANGED = 0.95
MOST_OUTSIDE = 12.0
"""Most root mean square error of all that is outside the mask. An autoencoder of 28 dB makes 10."""
MOST_OF_SMALL = 18.0
"""As MOST_OUTSIDE, where what must stay is small and full of edges, of which an autoencoder loses more."""
SHIFTED = 2
"""A shift of so many pixels is damage; one pixel is forgiven."""
MARGIN = 2
"""Pixels around the mask that are not looked at: no editor is that sharp."""

LEAST_FREE = 0.4
"""Where the margin leaves less than this of what must stay, there is no margin."""


@dataclass(frozen=True)
class Limits:
    """Least way, most way and most rest of an edit that is done.

    detail: most share of the target's fine detail that may be missing or wrong; None where it is not looked at.
    """

    least: float
    most: float
    rest: float
    detail: float | None = None


# A part of the target must be guessed: ground behind a thing, or a thing's look from its name.
_GUESSED = Limits(0.55, 1.45, 0.75)
# All that decides the target is in the inputs.
_KNOWN = Limits(0.75, 1.25, 0.5, 0.7)
# The target's detail is gone from the source: any clear step towards it counts.
_LOST = Limits(0.2, 1.6, 0.9, 0.9)
# Lines say where, and a name says what; colours are free. The structure is judged beside these.
_FREE = Limits(0.35, 1.6, 0.85)

LIMITS: dict[str, Limits] = {
    "add": _GUESSED,
    "remove": _GUESSED,
    "replace": _GUESSED,
    "move": _GUESSED,
    "background": _KNOWN,
    "grey": _KNOWN,
    "night": Limits(0.75, 1.25, 0.25, 0.7),
    "style": _KNOWN,
    "restore": _LOST,
    "restore/noise": Limits(0.6, 1.4, 0.7, 0.85),
    "restore/fading": _KNOWN,
    "restore/scratches": _GUESSED,
    "enlarge": _LOST,
    "subject": _GUESSED,
    "structure": _FREE,
}
"""By task, or by task and variant."""
FINE = 8
"""Side of the squares, in pixels, whose mean is not fine detail."""
UNSEEN_DETAIL = 4.0
"""Root mean square, in grey levels, of detail that nobody misses."""
LEAST_STRUCTURE = 0.55
"""Least correlation of the output's gradients with the target's, for the task "structure"."""


@dataclass(frozen=True)
class Verdict:
    """What the pixels say about one output.

    success: the edit is done, and nothing outside the mask is damaged. edit_done: the target is reached within the
    mask, whatever became of the rest. unchanged: share of blocks outside the mask that are as before; None where the
    mask is everything. way, rest: see above. reasons: what does not hold, in words.
    """

    success: bool
    edit_done: bool
    unchanged: float | None
    way: float
    rest: float
    reasons: tuple[str, ...]


def judge(case: Sample, image: np.ndarray | Image.Image) -> Verdict:
    """Judge an output picture against a pair's truth.

    A picture of another size is scaled to that of the pair. Raises ImageError for an array that is no RGB picture.
    """
    output = _pixels(image, case.target.shape[0])
    before, target = case.before.astype(np.float32), case.target.astype(np.float32)
    reasons = []
    step = (target - before)[case.mask]
    size = float(np.square(step).sum())
    way = float(((output - before)[case.mask] * step).sum()) / size
    rest = float(np.sqrt(np.square((output - target)[case.mask]).sum() / size))
    limits = LIMITS.get(f"{case.task}/{case.variant}", LIMITS[case.task])
    if way < limits.least:
        reasons.append(f"the edit is done to {way:.0%}, of at least {limits.least:.0%}")
    if way > limits.most:
        reasons.append(f"the edit is overdone: {way:.0%}, of at most {limits.most:.0%}")
    if rest > limits.rest:
        reasons.append(f"{rest:.0%} of the change is missing or wrong, of at most {limits.rest:.0%}")
    if limits.detail is not None and (missing := lost_detail(output, target)) > limits.detail:
        reasons.append(f"{missing:.0%} of the detail is missing or wrong, of at most {limits.detail:.0%}")
    if case.kept is not None and case.kept.any():
        # A new ground alone is most of the change; what stands on it must still be there.
        lost = float(np.sqrt(np.square((output - target)[case.kept]).mean()))
        if lost > CHANGED_BLOCK:
            reasons.append(f"the things that stay are off by {lost:.0f} grey levels")
    if case.task == "structure" and (found := structure(output, target)) < LEAST_STRUCTURE:
        reasons.append(f"the structure is followed to {found:.2f}, of at least {LEAST_STRUCTURE}")
    edit_done = not reasons
    unchanged, damages = _outside(case, output, before)
    if not damages and case.mask.all() and (moved := shift(output, target)) is not None:
        damages.append(f"the picture is shifted by {moved[1]}, {moved[0]} pixels")
    return Verdict(edit_done and not damages, edit_done, unchanged, way, rest, (*reasons, *damages))


def _outside(case: Sample, output: np.ndarray, before: np.ndarray) -> tuple[float | None, list[str]]:
    """(share of unchanged blocks, what is damaged) outside the mask and its margin."""
    free, most = ~grown(case.mask, MARGIN), MOST_OUTSIDE
    if free.sum() < LEAST_FREE * (~case.mask).sum():
        # What must stay is small, as the one thing that keeps its colours: it counts up to its rim.
        free, most = ~case.mask, MOST_OF_SMALL
    if not free.any():
        return None, []
    errors = np.square(output - before).mean(axis=2) * free
    counts, sums = (_blocks(values.astype(np.float32)) for values in (free, errors))
    looked = counts >= min(BLOCK * BLOCK / 4, counts.max())
    unchanged = float((np.sqrt(sums[looked] / counts[looked]) < CHANGED_BLOCK).mean())
    damages = []
    error = float(np.sqrt(errors.sum() / free.sum()))
    if unchanged < LEAST_UNCHANGED:
        damages.append(f"{1 - unchanged:.0%} of the rest is changed")
    if error > most:
        damages.append(f"the rest is off by {error:.0f} grey levels")
    if not damages and (moved := shift(output, before, free)) is not None:
        damages.append(f"the rest is shifted by {moved[1]}, {moved[0]} pixels")
    return unchanged, damages


def shift(output: np.ndarray, wanted: np.ndarray, where: np.ndarray | None = None) -> tuple[int, int] | None:
    """(rows, columns) by which an output fits clearly better than where it lies, SHIFTED pixels or more; else None."""
    reach = 4
    one, other = luma(output), luma(wanted)
    side = one.shape[0]
    inner = slice(reach, side - reach)
    weight = np.ones((side, side), np.float32) if where is None else where.astype(np.float32)
    weight = weight[inner, inner]
    if weight.sum() < side:
        return None
    aim = other[inner, inner]

    def error(down: int, right: int) -> float:
        part = one[reach + down : side - reach + down, reach + right : side - reach + right]
        return float((np.square(part - aim) * weight).sum())

    steps = range(-reach, reach + 1)
    errors = {(down, right): error(down, right) for down in steps for right in steps}
    best = min(errors, key=lambda place: errors[place])
    if max(map(abs, best)) < SHIFTED or errors[best] > 0.5 * errors[0, 0]:
        return None
    return best


def lost_detail(output: np.ndarray, target: np.ndarray) -> float:
    """How much of a target's fine detail an output lacks or has wrong: 0 none, 1 all of it."""
    wanted, found = (values - _smooth(values) for values in (luma(target), luma(output)))
    missing, size = float(np.square(found - wanted).mean()), float(np.square(wanted).mean())
    return float(np.sqrt(missing / (size + UNSEEN_DETAIL**2)))


def structure(output: np.ndarray, target: np.ndarray) -> float:
    """The correlation of two pictures' gradients, smoothed so that a line may lie a pixel beside: -1 to 1."""
    first, second = (_strength(picture) for picture in (output, target))
    if first.std() < 1e-3 or second.std() < 1e-3:
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask and all within so many pixels of it, (S, S) bool."""
    out = mask.copy()
    for _ in range(pixels):
        wide = np.pad(out, 1)
        out = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return out


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean of the FINE x FINE square around each pixel."""
    wide = np.pad(values, (FINE // 2, FINE - FINE // 2), mode="edge").cumsum(axis=0).cumsum(axis=1)
    sums: np.ndarray = wide[FINE:, FINE:] - wide[:-FINE, FINE:] - wide[FINE:, :-FINE] + wide[:-FINE, :-FINE]
    return sums[: len(values), : len(values)] / FINE**2


def _strength(picture: np.ndarray) -> np.ndarray:
    down, across = np.gradient(luma(picture))
    strength = np.hypot(down, across)
    wide = np.pad(strength, 1, mode="edge")
    side = len(strength)
    total = sum(wide[i : i + side, j : j + side] for i in range(3) for j in range(3))
    return np.sqrt(np.asarray(total) / 9)


def _blocks(values: np.ndarray) -> np.ndarray:
    side = values.shape[0] // BLOCK
    sums: np.ndarray = values.reshape(side, BLOCK, side, BLOCK).sum(axis=(1, 3))
    return sums


def _pixels(image: np.ndarray | Image.Image, side: int) -> np.ndarray:
    picture = load_image(image)
    if picture.width != picture.height:
        raise ImageError(f"The output is {picture.width}x{picture.height} pixels; PhotoWorld's pictures are square.")
    if picture.width != side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float32)
