"""Scenes to pixels. Styles and lights act inside a cell, so a picture is four cached cells side by side."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from .scene import CELL, SIZE, Background, Scene, Thing
from .sprites import sprite

_PALE = {
    "white": (252, 252, 252),
    "grey": (186, 186, 192),
    "sky blue": (158, 212, 250),
    "sand": (240, 214, 160),
    "mint": (164, 234, 194),
    "pink": (254, 190, 210),
}
_LIGHT = {  # per channel: gain, offset
    "night": ((0.34, 0.40, 0.62), (2.0, 8.0, 40.0)),
    "sunset": ((0.95, 0.60, 0.42), (13.0, 0.0, 24.0)),
    "fog": ((0.40, 0.40, 0.40), (120.0, 128.0, 138.0)),
}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_PAPER = np.array([250.0, 245.0, 230.0], dtype=np.float32)
_SEPIA_DARK = np.array([52.0, 28.0, 12.0], dtype=np.float32)
_SEPIA_LIGHT = np.array([255.0, 232.0, 186.0], dtype=np.float32)


@cache
def background_cell(background: Background) -> np.ndarray:
    """A cell's background in flat style and day light: (32, 32, 3) float32, 0..255."""
    colour = np.array(_PALE[background.colour], dtype=np.float32)
    step = np.arange(CELL) // 8
    if background.pattern == "checked":
        dark = (step[:, None] + step[None, :]) % 2 == 1
    elif background.pattern == "lined":
        dark = np.broadcast_to((np.arange(CELL) % 8 < 3)[:, None], (CELL, CELL))
    else:
        dark = np.zeros((CELL, CELL), dtype=bool)
    return colour * np.where(dark, 0.84, 1.0)[..., None].astype(np.float32)


def restyle(flat: np.ndarray, style: str, light: str) -> np.ndarray:
    """Put flat cells into a style and a light. Takes (..., 32, 32, 3) float32, 0..255; returns the same as uint8."""
    out = flat
    if style == "sketch":
        luma = flat @ _LUMA
        # Cells are periodic at their rims (margins show background only), so rolling sees the true neighbours.
        edge = np.abs(luma - np.roll(luma, 1, -1)) + np.abs(luma - np.roll(luma, 1, -2))
        ink = np.clip(edge / 90.0, 0.0, 1.0) * 0.8
        tone = 0.62 + 0.38 * luma / 255.0
        out = _PAPER * (tone * (1.0 - ink))[..., None]
    elif style == "mosaic":
        lead = flat.shape[:-3]
        blocks = flat.reshape(*lead, CELL // 4, 4, CELL // 4, 4, 3).mean(axis=(-4, -2), keepdims=True)
        tiles = np.broadcast_to(blocks, (*lead, CELL // 4, 4, CELL // 4, 4, 3)).reshape(flat.shape)
        out = 0.4 * tiles + 0.6 * flat  # pure tiles would hide a face; a mosaic must stay invertible
        out[..., 3::4, :, :] *= 0.66
        out[..., :, 3::4, :] *= 0.66
    elif style == "sepia":
        out = _SEPIA_DARK + (_SEPIA_LIGHT - _SEPIA_DARK) * ((flat @ _LUMA) / 255.0)[..., None]
    elif style == "negative":
        out = 255.0 - flat
    if light != "day":
        gain, offset = _LIGHT[light]
        out = out * np.array(gain, dtype=np.float32) + np.array(offset, dtype=np.float32)
    out = np.clip(out, 0.0, 255.0)
    out += 0.5
    return out.astype(np.uint8)


@lru_cache(maxsize=12288)  # at most 38 MB; the flat day cells alone are 7,794
def render_cell(thing: Thing | None, background: Background, style: str, light: str) -> np.ndarray:
    """One cell of a picture: (32, 32, 3) uint8, read-only."""
    flat = background_cell(background)
    if thing is not None:
        paint, cover = sprite(thing)
        flat = flat * (1.0 - cover) + paint
    cell = restyle(flat, style, light)
    cell.setflags(write=False)
    return cell


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: (64, 64, 3) uint8, a pure function of the scene."""
    picture = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
    for place, thing in enumerate(scene.cells):
        y, x = CELL * (place // 2), CELL * (place % 2)
        picture[y : y + CELL, x : x + CELL] = render_cell(thing, scene.background, scene.style, scene.light)
    return picture


def silhouette(scene: Scene) -> np.ndarray:
    """The structure map of a scene: black where things are, white elsewhere; (64, 64, 3) uint8."""
    picture = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
    for place, thing in enumerate(scene.cells):
        if thing is not None:
            y, x = CELL * (place // 2), CELL * (place % 2)
            picture[y : y + CELL, x : x + CELL] = (255.0 * (1.0 - sprite(thing)[1]) + 0.5).astype(np.uint8)
    return picture
