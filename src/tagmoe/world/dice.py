"""Random scenes. Only this module draws things, and it keeps held-out combinations out of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from .scene import (
    BACKGROUNDS,
    COLOURS,
    EXPRESSIONS,
    HAIRS,
    HATS,
    HELD_OUT_COMBINATIONS,
    LIGHTS,
    PATTERNS,
    SHAPES,
    SKINS,
    STYLES,
    TEXTURES,
    Background,
    Face,
    Item,
    Scene,
    Thing,
)

T = TypeVar("T")
_HELD_OUT = tuple(sorted(HELD_OUT_COMBINATIONS))


class Dice:
    """Draws from one generator. With `seek` held-out combinations are drawn often, without it never."""

    def __init__(self, rng: np.random.Generator, *, seek: bool = False) -> None:
        self._uniform = rng.random
        self.seek = seek

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._uniform() * len(options))]

    def other(self, options: Sequence[T], *but: T) -> T:
        return self.pick([option for option in options if option not in but])

    def places(self, count: int) -> list[int]:
        """`count` different places in random order."""
        left = [0, 1, 2, 3]
        return [left.pop(int(self._uniform() * len(left))) for _ in range(count)]

    def _pairs(self, shapes: Sequence[str], colours: Sequence[str]) -> tuple[str, str]:
        if self.seek and self.chance(0.7):
            wanted = [pair for pair in _HELD_OUT if pair[0] in shapes and pair[1] in colours]
            if wanted:
                return self.pick(wanted)
        while True:
            pair = (self.pick(shapes), self.pick(colours))
            if pair not in HELD_OUT_COMBINATIONS:
                return pair

    def item(self, shapes: Sequence[str] = SHAPES, colours: Sequence[str] = COLOURS) -> Item:
        shape, colour = self._pairs(shapes, colours)
        texture = "plain" if self.chance(0.5) else self.pick(TEXTURES[1:])
        size = "small" if texture == "plain" and self.chance(0.45) else "large"
        return Item(shape, colour, texture, size)

    def plain_item(self) -> Item:
        return Item(*self._pairs(SHAPES, COLOURS))

    def colour_for(self, shape: str, *but: str) -> str:
        """A colour for a shape, other than those in `but`."""
        return self._pairs((shape,), [c for c in COLOURS if c not in but])[1]

    def shape_for(self, colour: str, *but: str) -> str:
        """A shape for a colour, other than those in `but`."""
        return self._pairs([s for s in SHAPES if s not in but], (colour,))[0]

    def face(self) -> Face:
        hat = self.pick(HATS) if self.chance(0.4) else None
        return Face(self.pick(SKINS), self.pick(HAIRS), self.chance(0.35), hat, self.pick(EXPRESSIONS))

    def background(self) -> Background:
        pattern = "plain" if self.chance(0.5) else self.pick(PATTERNS[1:])
        return Background(self.pick(BACKGROUNDS), pattern)

    def setting(self, kinds: str) -> tuple[str, str]:
        """A style and a light, about 80 % flat day. kinds: "flat" (flat day only), "lit" (flat, any light) or "any"."""
        if kinds == "flat" or self.chance(0.8):
            return "flat", "day"
        if kinds == "any" and self.chance(0.5):
            return self.pick(STYLES[1:]), "day"
        return "flat", self.pick(LIGHTS[1:])

    def scene(self, kinds: str = "any", things: Sequence[Thing] = (), extra: tuple[int, int] = (0, 2)) -> Scene:
        """A scene that holds `things` and between extra[0] and extra[1] others, at random places.

        The others may include a face, if `things` has none.
        """
        low, high = extra
        count = low + int(self._uniform() * (high - low + 1))
        chosen: list[Thing] = list(things)
        person = any(isinstance(thing, Face) for thing in chosen)
        for _ in range(min(count, 4 - len(chosen))):
            if not person and self.chance(0.25):
                chosen.append(self.face())
                person = True
            else:
                chosen.append(self.item())
        style, light = self.setting(kinds)
        scene = Scene((None, None, None, None), self.background(), style, light)
        return scene.put(*zip(self.places(len(chosen)), chosen, strict=True))
