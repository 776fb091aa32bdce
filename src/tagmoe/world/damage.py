"""What is wrong with an output picture, whatever it is: the difference from the target, searched in all directions.

A direction leads from the target to a picture with something else in it: the source's thing, any other thing in a cell,
another background, style or light. The difference of output and target is projected on each. A half ghost of a thing
goes half of its way; the errors of a lossy autoencoder go far in no direction. Bounds: docs/decisions/judge.md.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .oracle import CLEAN, CLEAN_OF_STYLE, Setting, centred, pixels, rims, setting_rims, split_cells
from .render import render, render_cell
from .scene import PLACES, Scene

SOURCE_WAY, SOURCE_SHARE = 0.23, 0.3
OTHER_WAY, OTHER_SHARE = 0.45, 0.5
"""A direction counts if the difference goes this part of the way, and if it explains this share of the difference."""
SPOT, SPOT_SIDE = 80.0, 5
"""A mean difference, in grey levels, of a square of so many pixels is damage."""
PART_SIDE, PART_CHANGE, PART_WAY = 7, 30.0, 0.75
"""A square of so many pixels that changes by so many grey levels, and is this part of the way back, has not changed."""
_NOTHING = 0.1  # squared grey levels a pixel: a direction as short as that leads nowhere
_UNSEEN = 9.0  # squared grey levels a pixel that nobody sees, so that rounding explains nothing


def damage(target: Scene, source: Scene | None, image: np.ndarray | Image.Image) -> list[str]:
    """What is wrong with an output, in words; empty when it is right. source: None where the whole picture is new.

    A shift of the picture by one pixel is forgiven. Raises ImageError for an array that is no picture.
    """
    wanted = render(target)
    picture = aligned(pixels(image), wanted)
    cells = split_cells(picture).reshape(len(PLACES), -1)
    setting = Setting(target.background, target.style, target.light)
    limit = CLEAN_OF_STYLE.get(target.style, CLEAN)
    truths = np.stack([render_cell(thing, target.background, target.style, target.light) for thing in target.cells])
    truths = truths.reshape(len(PLACES), -1).astype(np.float32)
    rests = cells - truths
    others = _others(*centred(setting), truths, rests) if any(map(_can_be_seen, rests)) else []
    found = []
    for place, rest in enumerate(rests):
        name = PLACES[place]
        if not _can_be_seen(rest):
            continue
        if np.square(rest).mean() > limit:
            found.append(f"{name}: blurred, noisy or another thing")
        if source is not None:
            before = render_cell(source.cells[place], source.background, source.style, source.light)
            way = before.reshape(1, -1) - truths[place]
            if _goes(rest, way @ rest, np.square(way).sum(axis=1), SOURCE_WAY, SOURCE_SHARE):
                found.append(f"{name}: the edit is half done")
        if _goes(rest, *others[place], OTHER_WAY, OTHER_SHARE):
            found.append(f"{name}: something else is there, in whole or in part")
    every, now = setting_rims(), setting_rims(setting)
    rest = (rims(picture) - now).mean(axis=0)
    ways = every - now
    if _goes(rest, ways @ rest, np.square(ways).sum(axis=1), OTHER_WAY, OTHER_SHARE):
        found.append("another background, style or light")
    difference = picture.astype(np.float32) - wanted
    if np.abs(_means(difference, SPOT_SIDE)).max() > SPOT:
        found.append("a spot is damaged")
    if source is not None and _as_before(difference, render(source).astype(np.float32) - wanted):
        found.append("a part of the change is missing")
    return found


def _means(values: np.ndarray, side: int) -> np.ndarray:
    """The mean of every square of side x side pixels, summed along one side and then along the other."""
    for _ in range(2):
        count = len(values) - side + 1
        total = values[:count].copy()
        for i in range(1, side):
            total += values[i : i + count]
        values = total.swapaxes(0, 1)
    return values / side**2


def _as_before(difference: np.ndarray, back: np.ndarray) -> bool:
    """Whether a part that changes visibly looks as in the source. difference, back: output and source, each minus the
    target; (64, 64, 3)."""
    squares = _means(np.square(back).sum(axis=2), PART_SIDE)
    along = _means((difference * back).sum(axis=2), PART_SIDE)
    every = _means(np.square(difference).sum(axis=2), PART_SIDE)
    gone = along / np.maximum(squares, 1.0)
    explained = np.square(gone) * squares / (every + 3 * _UNSEEN)
    return bool(((gone >= PART_WAY) & (explained >= PART_WAY) & (squares >= PART_CHANGE**2)).any())


def _others(
    things: np.ndarray, squares: np.ndarray, truths: np.ndarray, rests: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each cell, the products with its difference and the squared lengths of the directions to all things.

    things, squares: of `centred`.
    """
    truths = truths - 128.0
    # One product: the things are read from memory once.
    with_rest, with_truth = np.split(things @ np.concatenate([rests, truths]).T, 2, axis=1)
    return [
        (with_rest[:, i] - truths[i] @ rests[i], squares + truths[i] @ truths[i] - 2 * with_truth[:, i])
        for i in range(len(truths))
    ]


def _can_be_seen(rest: np.ndarray) -> bool:
    """Whether any direction can explain enough of the difference: by Cauchy and Schwarz none explains more than it."""
    length = float(rest @ rest)
    return length >= min(SOURCE_SHARE, OTHER_SHARE) * (length + rest.size * _UNSEEN)


def _goes(rest: np.ndarray, products: np.ndarray, squares: np.ndarray, way: float, share: float) -> bool:
    """Whether the difference `rest` (n,) goes `way` or more along a direction that explains `share` of it.

    products, squares: (m,) scalar products of the directions with `rest`, and their squared lengths.
    """
    there = squares > rest.size * _NOTHING
    gone = np.where(there, products / np.where(there, squares, 1.0), 0.0)
    explained = np.square(gone) * squares / (rest @ rest + rest.size * _UNSEEN)
    return bool(((gone >= way) & (explained >= share)).any())


def aligned(picture: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The picture itself, or moved by one pixel to where it fits best; rows that come in repeat the border."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    shifts = ((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1))
    moved = [picture, *(padded[y : y + height, x : x + width] for y, x in shifts)]
    truth = wanted.astype(np.float32)
    return min(moved, key=lambda one: float(np.square(one - truth).sum()))
