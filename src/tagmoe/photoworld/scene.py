"""Composed scenes: cut-outs that stand on a photographic ground, and how they are drawn.

Every scene is drawn from the ground up, so two scenes that differ in one thing differ in no pixel that this thing, its
shadow and what it hides do not touch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from .looks import LUMA, bytes_of
from .roots import Cutout

COLUMNS = {"left": 0.21, "middle": 0.5, "right": 0.79}
"""Where the middle of a thing stands, as a share of the width."""
NEAR, FAR = 0.84, 0.54
"""Where a thing stands between the horizon (0) and the lower edge (1)."""
LARGEST = 0.46
"""The longer side of a thing that stands near, as a share of the side, where the horizon is in the middle."""
SMALLEST = 0.22
DARKEST = 0.5
"""How dark the contact shadow is below the thing."""
MAX_THINGS = 3


@dataclass(frozen=True, eq=False)
class Stage:
    """A crop of a ground. pixels: (S, S, 3) uint8. horizon: its row."""

    root: str
    pixels: np.ndarray
    horizon: int

    @property
    def size(self) -> int:
        return len(self.pixels)

    @cached_property
    def mean(self) -> np.ndarray:
        """(3,) float32: its mean colour."""
        mean: np.ndarray = self.pixels.mean(axis=(0, 1), dtype=np.float32)
        return mean


@dataclass(frozen=True)
class Placed:
    """A cut-out that stands somewhere. column: of COLUMNS. flip: mirrored."""

    cutout: Cutout
    column: str
    near: bool
    flip: bool = False

    @property
    def place(self) -> str:
        """ "on the left in front"."""
        where = {"left": "on the left", "middle": "in the middle", "right": "on the right"}[self.column]
        return f"{where}{' in front' if self.near else ' further back'}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A stage and what stands on it, at most one thing in a column."""

    stage: Stage
    things: tuple[Placed, ...] = ()

    def without(self, thing: Placed) -> Scene:
        return replace(self, things=tuple(one for one in self.things if one is not thing))

    def plus(self, thing: Placed) -> Scene:
        return replace(self, things=(*self.things, thing))

    def free(self) -> list[str]:
        taken = {thing.column for thing in self.things}
        return [column for column in COLUMNS if column not in taken]


def box_of(thing: Placed, stage: Stage) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a thing in pixels. Its size follows from its distance to the horizon."""
    size, below = stage.size, stage.size - stage.horizon
    foot = stage.horizon + (NEAR if thing.near else FAR) * below
    # On a plane, sizes grow in proportion to the distance from the horizon.
    side = size * LARGEST * (foot - stage.horizon) / (NEAR * size / 2)
    side = min(max(side, SMALLEST * size), LARGEST * size * 1.1)
    height, width = thing.cutout.pixels.shape[:2]
    scale = side / max(height, width)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    left = min(max(0, round(COLUMNS[thing.column] * size - width / 2)), size - width)
    return left, max(0, round(foot) - height), width, height


def draw(scene: Scene) -> np.ndarray:
    """The picture of a scene: (S, S, 3) uint8."""
    values = scene.stage.pixels.astype(np.float32)
    for thing in sorted(scene.things, key=lambda one: one.near):
        left, top, width, height = box_of(thing, scene.stage)
        _shade(values, scene.stage, left, top + height, width)
        colour, alpha = _scaled(thing.cutout, width, height, thing.flip)
        gain = _harmony(scene.stage, thing.cutout)
        part = values[top : top + height, left : left + width]
        part *= 1.0 - alpha
        part += np.minimum(colour * gain, 255.0 * alpha)
    return bytes_of(values)


def matte(scene: Scene, things: tuple[Placed, ...] | None = None) -> np.ndarray:
    """(S, S) float32, 0..1: how much of each pixel belongs to the things (by default all), shadows left out."""
    size = scene.stage.size
    cover = np.zeros((size, size), dtype=np.float32)
    for thing in scene.things if things is None else things:
        left, top, width, height = box_of(thing, scene.stage)
        part = cover[top : top + height, left : left + width]
        np.maximum(part, _scaled(thing.cutout, width, height, thing.flip)[1][..., 0], out=part)
    return cover


def alone(cutout: Cutout, size: int) -> np.ndarray:
    """A cut-out on white, as a reference picture: (S, S, 3) uint8."""
    height, width = cutout.pixels.shape[:2]
    scale = 0.86 * size / max(height, width)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    colour, alpha = _scaled(cutout, width, height, False)
    values = np.full((size, size, 3), 255.0, dtype=np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    part = values[top : top + height, left : left + width]
    part *= 1.0 - alpha
    part += colour
    return bytes_of(values)


@lru_cache(maxsize=4096)
def _scaled(cutout: Cutout, width: int, height: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """(colour times alpha (h, w, 3) float32 in 0..255, alpha (h, w, 1) float32 in 0..1), read-only."""
    image = Image.fromarray(cutout.pixels).convert("RGBa").resize((width, height), Image.Resampling.BOX)
    if max(width, height) > max(cutout.pixels.shape[:2]):
        image = Image.fromarray(cutout.pixels).convert("RGBa").resize((width, height), Image.Resampling.BILINEAR)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = np.asarray(image, dtype=np.float32)
    colour, alpha = values[..., :3].copy(), values[..., 3:] / 255.0
    for array in (colour, alpha):
        array.setflags(write=False)
    return colour, alpha


@lru_cache(maxsize=8192)
def _mean(cutout: Cutout) -> np.ndarray:
    """(3,) float32: the mean colour of a thing."""
    weight = cutout.pixels[..., 3].astype(np.float32)
    mean: np.ndarray = (cutout.pixels[..., :3] * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
    return mean


def _harmony(stage: Stage, cutout: Cutout) -> np.ndarray:
    """(3,) float32: gains that bring the thing's brightness and tint a part of the way to those of the stage."""
    around = stage.mean + 8.0
    own = _mean(cutout) + 8.0
    light = np.clip((around @ LUMA / (own @ LUMA)) ** 0.22, 0.78, 1.2)
    tint = np.clip((around / (around @ LUMA)) ** 0.3, 0.85, 1.18)
    gains: np.ndarray = (light * tint).astype(np.float32)
    return gains


def _shade(values: np.ndarray, stage: Stage, left: int, foot: int, width: int) -> None:
    """Darken the ground below a thing: a soft ellipse where it touches the ground."""
    deep = max(2.0, 0.11 * width)
    top, bottom = max(0, int(foot - 2.2 * deep)), min(stage.size, int(foot + 2.2 * deep) + 1)
    spill = int(0.15 * width) + 1
    first, last = max(0, left - spill), min(stage.size, left + width + spill)
    y = (np.arange(top, bottom, dtype=np.float32) - (foot - 0.5 * deep)) / deep
    x = (np.arange(first, last, dtype=np.float32) - (left + width / 2)) / (0.5 * width)
    fall = np.exp(-1.2 * (y[:, None] ** 2 + x[None, :] ** 2))
    fall = np.maximum(0.0, fall - 0.06)
    values[top:bottom, first:last] *= 1.0 - DARKEST * fall[..., None]
