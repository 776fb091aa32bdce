"""Read a scene back from pixels by analysis by synthesis: compare every cell with every possible rendering."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np
from PIL import Image

from tagmoe.errors import ImageError

from .render import background_cell, restyle
from .scene import (
    BACKGROUNDS,
    CELL,
    LIGHTS,
    PATTERNS,
    SIZE,
    STYLES,
    Background,
    Face,
    Item,
    Scene,
    Thing,
    all_things,
)
from .sprites import sprite

THINGS = all_things()
INDEX = {thing: k for k, thing in enumerate(THINGS)}
ATTRIBUTES: dict[type, tuple[str, ...]] = {
    Item: ("shape", "colour", "texture", "size"),
    Face: ("skin", "hair", "glasses", "hat", "expression"),
}
# Mean squared errors of a cell, in squared grey levels.
TOLERANCE = 5.0  # readings this close to the best are equally good: the picture does not tell them apart
RELATIVE_TOLERANCE = 0.1  # and this share of the best error, for lossy pictures
GARBAGE = 1200.0  # a picture whose best error is larger is no TagWorld picture
# The largest error of an edited cell that counts as clean. An autoencoder's reconstructions of 850 true targets had at
# most 528, but 1196 in sketch and 1299 in negative, which it draws badly.
CLEAN = 600.0
CLEAN_OF_STYLE = {"sketch": GARBAGE, "negative": GARBAGE}
_SHORTLIST = 6


@dataclass(frozen=True)
class Setting:
    """What all cells of a picture share."""

    background: Background
    style: str
    light: str


SETTINGS = tuple(
    Setting(Background(colour, pattern), style, light)
    for style, light in (*(("flat", light) for light in LIGHTS), *((style, "day") for style in STYLES[1:]))
    for colour, pattern in product(BACKGROUNDS, PATTERNS)
)


@dataclass(frozen=True)
class Reading:
    """What a picture shows, with the doubt that its pixels leave.

    scene: the best reading; None where the picture is no TagWorld picture. settings: every shared setting that fits
    equally well. possible: (4, things) bool, the contents that fit each cell. errors: each cell's mean squared error.
    """

    scene: Scene | None
    settings: tuple[Setting, ...]
    possible: np.ndarray
    errors: tuple[float, float, float, float]

    def shows(self, place: int, thing: Thing | None) -> bool:
        """Whether a cell can be read as holding exactly this thing (None: as empty)."""
        return bool(self.possible[place, INDEX[thing]])

    def shows_attribute(self, place: int, thing: Thing, name: str) -> bool:
        """Whether a cell can be read as a thing of the same kind with the same value of an attribute."""
        return bool((self.possible[place] & _having(type(thing).__name__, name, getattr(thing, name))).any())

    def has_background(self, *, colour: str | None = None, pattern: str | None = None) -> bool:
        """Whether the background can be read as having this colour and this pattern (None: any)."""
        grounds = [setting.background for setting in self.settings]
        return any(colour in (None, g.colour) and pattern in (None, g.pattern) for g in grounds)

    def has_style(self, style: str) -> bool:
        return any(setting.style == style for setting in self.settings)

    def has_light(self, light: str) -> bool:
        return any(setting.light == light for setting in self.settings)


@cache
def _having(kind: str, name: str, value: Hashable) -> np.ndarray:
    return np.array([type(thing).__name__ == kind and getattr(thing, name) == value for thing in THINGS])


@cache
def _sprites() -> tuple[np.ndarray, np.ndarray]:
    """All things on all cells: colour times coverage (things, 32, 32, 3) and coverage (things, 32, 32, 1), float32."""
    paint = np.zeros((len(THINGS), CELL, CELL, 3), dtype=np.float32)
    cover = np.zeros((len(THINGS), CELL, CELL, 1), dtype=np.float32)
    for k, thing in enumerate(THINGS):
        if thing is not None:
            paint[k], cover[k] = sprite(thing)
    return paint, cover


@lru_cache(maxsize=144)  # all settings: 1.3 MB each, 190 MB once every style and light was read
def candidates(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Every cell of a setting, as (things, 3072) uint8, and each one's mean square about grey (things,) float32."""
    paint, cover = _sprites()
    flat = background_cell(setting.background) * (1.0 - cover)
    flat += paint
    cells = restyle(flat, setting.style, setting.light).reshape(len(THINGS), -1)
    about_grey = _about_grey(cells)
    return cells, np.square(about_grey, out=about_grey).mean(axis=1)


# A verdict needs those of the target's setting and of every setting that it reads the picture against; 5 MB each.
@lru_cache(maxsize=_SHORTLIST + 2)
def centred(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """`candidates` about grey, (things, 3072) float32, so that products of bytes stay exact enough; and each one's
    squared length (things,) float32."""
    cells, squares = candidates(setting)
    return _about_grey(cells), squares * np.float32(cells.shape[1])


def _about_grey(cells: np.ndarray) -> np.ndarray:
    """uint8 cells minus 128, as float32."""
    about_grey = cells.astype(np.float32)
    about_grey -= 128.0
    return about_grey


@cache
def _rim() -> np.ndarray:
    """(32, 32) bool: the pixels of a cell that no thing touches in any style."""
    edge = np.isin(np.arange(CELL), (0, 1, CELL - 1))
    return edge[:, None] | edge[None, :]


@cache
def _rims() -> np.ndarray:
    """(settings, rim values) float32."""
    empty = [restyle(background_cell(s.background), s.style, s.light)[_rim()] for s in SETTINGS]
    return np.stack(empty).reshape(len(SETTINGS), -1).astype(np.float32)


def setting_rims(setting: Setting | None = None) -> np.ndarray:
    """The rim of an empty cell in every setting (settings, values), or in one (1, values); float32."""
    return _rims() if setting is None else _rims()[[SETTINGS.index(setting)]]


def rims(image: np.ndarray | Image.Image) -> np.ndarray:
    """The rims of a picture's cells: (4, values) float32."""
    return split_cells(image)[:, _rim()].reshape(4, -1)


def pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """A picture as (64, 64, 3) uint8; other sizes are resized. Raises ImageError for anything else."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(f"The array is {image.dtype} of shape {image.shape}. Give uint8 of shape (H, W, 3).")
        if image.shape == (SIZE, SIZE, 3):
            return image
        image = Image.fromarray(image)
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def split_cells(image: np.ndarray | Image.Image) -> np.ndarray:
    """A picture's cells in the order of PLACES: (4, 32, 32, 3) float32, 0..255. Raises ImageError as `pixels` does."""
    picture = pixels(image).astype(np.float32)
    return picture.reshape(2, CELL, 2, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(4, CELL, CELL, 3)


def read(image: np.ndarray | Image.Image) -> Reading:
    """Read a scene from pixels alone: uint8 (H, W, 3) or a PIL picture. Raises ImageError for anything else."""
    cells = split_cells(image)
    rims = cells[:, _rim()].reshape(4, 1, -1)
    rim_errors = np.square(rims - _rims()).mean(axis=2).mean(axis=0)
    order = np.argsort(rim_errors)[:_SHORTLIST]
    best_rim = float(rim_errors[order[0]])
    nothing = np.zeros((4, len(THINGS)), dtype=bool)
    if best_rim > GARBAGE:
        return Reading(None, (), nothing, (best_rim, best_rim, best_rim, best_rim))
    shortlist = [SETTINGS[k] for k in order if rim_errors[k] <= best_rim * 1.5 + 30.0]
    errors = np.stack([_cell_errors(cells, setting) for setting in shortlist])  # (settings, 4, things)
    totals = errors.min(axis=2).mean(axis=1)
    near = totals <= totals.min() + _tolerance(totals.min())
    winner = int(totals.argmin())
    lowest = errors[near].min(axis=(0, 2))
    readable = lowest <= GARBAGE
    possible = (errors[near] <= (lowest + _tolerance(lowest))[:, None]).any(axis=0) & readable[:, None]
    chosen = shortlist[winner]
    a, b, c, d = (THINGS[k] for k in errors[winner].argmin(axis=1))
    return Reading(
        scene=Scene((a, b, c, d), chosen.background, chosen.style, chosen.light) if readable.all() else None,
        settings=tuple(setting for setting, fits in zip(shortlist, near, strict=True) if fits),
        possible=possible,
        errors=(float(lowest[0]), float(lowest[1]), float(lowest[2]), float(lowest[3])),
    )


def _tolerance(best: np.ndarray) -> np.ndarray:
    return np.maximum(TOLERANCE, RELATIVE_TOLERANCE * best)


def _cell_errors(cells: np.ndarray, setting: Setting) -> np.ndarray:
    """(4, things) mean squared errors of four cells against all renderings, by |x|^2 - 2 x.y + |y|^2."""
    squares = candidates(setting)[1]
    seen = cells.reshape(4, -1) - 128.0
    products = seen @ centred(setting)[0].T
    return np.square(seen).mean(axis=1)[:, None] - products * (2.0 / seen.shape[1]) + squares
