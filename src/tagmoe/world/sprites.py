"""Anti-aliased drawings of items and faces, as colour and coverage on a 32x32 cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .scene import CELL, Face, Item, Thing

_SCALE = 8  # supersampling: drawn 8x too large, then averaged
_LINE = 9  # the width of an outline, supersampled
_BOX = {"large": 24, "small": 16}
_INK = (52, 44, 58)
_PAINT = {
    "red": (228, 38, 48),
    "orange": (252, 138, 16),
    "yellow": (252, 218, 38),
    "green": (34, 160, 72),
    "blue": (38, 88, 220),
    "purple": (142, 56, 190),
}
_SKIN = {"light": (255, 222, 194), "tan": (222, 160, 106), "dark": (126, 76, 48)}
_HAIR = {"black": (44, 38, 50), "blond": (248, 208, 84), "ginger": (212, 84, 28), "white": (236, 236, 242)}

Box = tuple[float, float, float, float]


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))


def _polygon(shape: str) -> list[tuple[float, float]]:
    """The outline of a shape in the unit square."""
    if shape == "triangle":
        return [(0.5, 0.03), (1.0, 0.94), (0.0, 0.94)]
    if shape == "cross":
        a, b = 0.31, 0.69
        corners = [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]
        return [(float(x), float(y)) for x, y in corners]
    if shape == "star":
        radii = [0.53 if k % 2 == 0 else 0.245 for k in range(10)]
        angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
        return [(0.5 + r * math.cos(a), 0.54 + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    if shape == "heart":
        turns = [2 * math.pi * k / 80 for k in range(80)]
        across = [16 * math.sin(a) ** 3 for a in turns]
        up = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in turns]
        return [(0.5 + x / 32.5, 0.46 - y / 31) for x, y in zip(across, up, strict=True)]
    return [(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)]


@cache
def _outline(shape: str, size: str) -> tuple[Image.Image, Image.Image]:
    """Two supersampled cell masks: the whole shape, and the shape inside its dark outline."""
    side = _BOX[size] * _SCALE
    start = (CELL * _SCALE - side) / 2
    whole = Image.new("L", (CELL * _SCALE, CELL * _SCALE))
    draw = ImageDraw.Draw(whole)
    if shape == "circle":
        draw.ellipse((start, start, start + side - 1, start + side - 1), fill=255)
    else:
        draw.polygon([(start + x * (side - 1), start + y * (side - 1)) for x, y in _polygon(shape)], fill=255)
    inside = np.asarray(whole)
    for _ in range(2):  # the least of every square, along one side and then along the other
        padded = np.pad(inside, ((_LINE, _LINE), (0, 0)), mode="edge")
        inside = np.minimum.reduce([padded[i : i + len(inside)] for i in range(2 * _LINE + 1)]).T
    return whole, Image.fromarray(np.ascontiguousarray(inside))


@cache
def _marks(texture: str) -> Image.Image:
    """The white marks of a texture on a whole cell (supersampled): wide, so that an autoencoder keeps them."""
    marks = Image.new("L", (CELL * _SCALE, CELL * _SCALE))
    draw = ImageDraw.Draw(marks)
    if texture == "striped":
        for middle in range(-12, CELL + 12, 8):
            draw.rectangle(_scaled((0, middle - 1.7, CELL, middle + 1.7)), fill=255)
    else:
        for i in range(-3, 4):
            for j in range(-3, 4):
                if (i + j) % 2 == 0:
                    x, y = 16 + i * 5.25, 16 + j * 5.25
                    draw.ellipse(_scaled((x - 2.3, y - 2.3, x + 2.3, y + 2.3)), fill=255)
    return marks


def _scaled(box: Box) -> Box:
    return (box[0] * _SCALE, box[1] * _SCALE, box[2] * _SCALE - 1, box[3] * _SCALE - 1)


def _item(item: Item) -> Image.Image:
    whole, inside = _outline(item.shape, item.size)
    colour = _PAINT[item.colour]
    picture = Image.new("RGBA", whole.size, (*_shade(colour, 0.55), 0))
    picture.paste((*_shade(colour, 0.55), 255), mask=whole)
    picture.paste((*colour, 255), mask=inside)
    if item.texture != "plain":
        clear = Image.new("L", whole.size)
        clear.paste(_marks(item.texture), mask=inside)
        picture.paste((255, 252, 244, 255), mask=clear)
    return picture


def _face(face: Face) -> Image.Image:
    """A head of 28x28 pixels; coordinates below count from its box's corner."""
    side = CELL * _SCALE
    picture = Image.new("RGBA", (side, side), (*_INK, 0))
    draw = ImageDraw.Draw(picture)

    def at(*box: float) -> Box:
        return _scaled((box[0] + 2, box[1] + 2, box[2] + 2, box[3] + 2))

    skin, hair = _SKIN[face.skin], _HAIR[face.hair]
    skin_line, hair_line = _shade(skin, 0.62), _shade(hair, 0.6)
    line = int(_SCALE * 0.9)
    # Broad locks beside the face: under a hat only they show the colour of the hair.
    draw.rounded_rectangle(at(0.3, 1.5, 27.7, 24), radius=9 * _SCALE, fill=hair, outline=hair_line, width=line)
    draw.rounded_rectangle(at(5, 5, 23, 27.5), radius=8.5 * _SCALE, fill=skin, outline=skin_line, width=line)
    # The fringe: hair over the forehead, with a parting.
    draw.pieslice(at(4.4, 2.2, 23.6, 17.5), 180, 360, fill=hair)
    draw.polygon(
        [
            (at(11, 0, 0, 0)[0], at(0, 9.9, 0, 0)[1]),
            (at(17, 0, 0, 0)[0], at(0, 9.9, 0, 0)[1]),
            (at(15.5, 0, 0, 0)[0], at(0, 7.6, 0, 0)[1]),
        ],
        fill=skin,
    )
    _mouth_and_eyes(draw, at, face)
    if face.glasses:
        draw.rectangle(at(3.6, 12.2, 24.4, 13.8), fill=(24, 24, 32))
        for x in (5.0, 14.8):
            draw.rounded_rectangle(at(x, 11.8, x + 8.2, 18.4), radius=2.6 * _SCALE, fill=(24, 24, 32))
            draw.ellipse(at(x + 1.4, 12.8, x + 3.4, 14.6), fill=(120, 134, 160))
    if face.hat is not None:
        colour = _PAINT[face.hat]
        edge = _shade(colour, 0.55)
        draw.rounded_rectangle(at(5, 0, 23, 9.5), radius=4 * _SCALE, fill=colour, outline=edge, width=line)
        draw.rectangle(at(5.9, 4.8, 22.1, 6.8), fill=(255, 252, 244))
        draw.rounded_rectangle(at(0.3, 6.6, 27.7, 10.2), radius=1.7 * _SCALE, fill=colour, outline=edge, width=line)
    return picture


def _mouth_and_eyes(draw: ImageDraw.ImageDraw, at: Callable[..., Box], face: Face) -> None:
    pale = face.skin == "dark"
    ink = (28, 20, 24)
    white, lips = (255, 255, 255), (196, 40, 56)
    eye = 2.3 if face.expression == "surprised" else 1.9
    for x in (9.4, 18.6):
        if pale:  # dark pupils on dark skin need the white of the eye
            draw.ellipse(at(x - eye - 0.6, 14.8 - eye - 0.5, x + eye + 0.6, 14.8 + eye + 0.5), fill=white)
        draw.ellipse(at(x - eye * 0.85, 14.8 - eye, x + eye * 0.85, 14.8 + eye), fill=ink)
        draw.ellipse(at(x - 0.2, 13.6, x + 1.0, 14.8), fill=white)
    if face.expression == "smiling":
        draw.chord(at(8.0, 14.4, 20.0, 25.6), 12, 168, fill=lips, outline=ink, width=int(_SCALE * 0.8))
        draw.rectangle(at(9.4, 21.0, 18.6, 22.4), fill=white)
    elif face.expression == "sad":
        draw.arc(at(8.6, 20.6, 19.4, 30.0), 205, 335, fill=ink, width=int(_SCALE * 2.0))
        draw.ellipse(at(18.2, 17.8, 20.6, 21.6), fill=(70, 160, 250))
    else:
        draw.ellipse(at(10.8, 18.8, 17.2, 26.0), fill=ink)
        draw.ellipse(at(12.4, 22.2, 15.6, 25.2), fill=lips)


@cache
def sprite(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """A thing drawn in its cell.

    Returns (32, 32, 3) float32 colour multiplied by coverage (0..255) and (32, 32, 1) float32 coverage (0..1).
    """
    large = (_item(thing) if isinstance(thing, Item) else _face(thing)).convert("RGBa")
    # A supersampled pixel is covered whole or not at all, so sums of its bytes are exact.
    rows = np.asarray(large).reshape(CELL, _SCALE, -1).sum(axis=1, dtype=np.uint16)
    sums = rows.reshape(CELL, CELL, _SCALE, 4).sum(axis=2, dtype=np.uint16).astype(np.float32) / _SCALE**2
    return sums[..., :3], sums[..., 3:] / 255.0
