"""What a TagWorld picture shows: four cells, a background, a picture style and a light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

SIZE = 64
CELL = 32
PLACES = ("top left", "top right", "bottom left", "bottom right")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("large", "small")
SKINS = ("light", "tan", "dark")
HAIRS = ("black", "blond", "ginger", "white")
HATS = ("red", "blue", "green")
EXPRESSIONS = ("smiling", "sad", "surprised")
BACKGROUNDS = ("white", "grey", "sky blue", "sand", "mint", "pink")
PATTERNS = ("plain", "checked", "lined")
STYLES = ("flat", "sketch", "mosaic", "sepia", "negative")
LIGHTS = ("day", "night", "sunset", "fog")

# Pairs that no training scene contains. They measure whether shape and colour were learned independently.
HELD_OUT_COMBINATIONS: frozenset[tuple[str, str]] = frozenset(
    {("star", "green"), ("heart", "blue"), ("circle", "purple"), ("cross", "orange")}
)


@dataclass(frozen=True, slots=True)
class Item:
    """A thing with a shape, a colour, a texture and a size. A small one is always plain."""

    shape: str
    colour: str
    texture: str = "plain"
    size: str = "large"


@dataclass(frozen=True, slots=True)
class Face:
    """The person: at most one a scene. `hat` is None or a colour of HATS."""

    skin: str
    hair: str
    glasses: bool = False
    hat: str | None = None
    expression: str = "smiling"


@dataclass(frozen=True, slots=True)
class Background:
    """A pale colour with a pattern whose period divides the cell."""

    colour: str = "white"
    pattern: str = "plain"


Thing = Item | Face


@dataclass(frozen=True)
class Scene:
    """A picture: four cells in the order of PLACES, background, style and light."""

    cells: tuple[Thing | None, Thing | None, Thing | None, Thing | None]
    background: Background = Background()
    style: str = "flat"
    light: str = "day"

    @cached_property
    def occupied(self) -> tuple[int, ...]:
        return tuple(i for i, thing in enumerate(self.cells) if thing is not None)

    @cached_property
    def empty(self) -> tuple[int, ...]:
        return tuple(i for i, thing in enumerate(self.cells) if thing is None)

    @cached_property
    def items(self) -> tuple[int, ...]:
        return tuple(i for i, thing in enumerate(self.cells) if isinstance(thing, Item))

    @cached_property
    def face(self) -> int | None:
        return next((i for i, thing in enumerate(self.cells) if isinstance(thing, Face)), None)

    def put(self, *changes: tuple[int, Thing | None]) -> Scene:
        """The scene with other things in some cells, as (place index, thing) pairs."""
        cells = list(self.cells)
        for place, thing in changes:
            cells[place] = thing
        # Not `replace`, which takes four times as long: drawing cases puts things into many scenes.
        return Scene((cells[0], cells[1], cells[2], cells[3]), self.background, self.style, self.light)

    def has_held_out(self) -> bool:
        """Whether an item pairs a shape and a colour of HELD_OUT_COMBINATIONS."""
        return any(isinstance(t, Item) and (t.shape, t.colour) in HELD_OUT_COMBINATIONS for t in self.cells)


def all_items() -> tuple[Item, ...]:
    """Every item there is (144): a small item is always plain, because marks on it would not survive an autoencoder."""
    large = tuple(Item(*values) for values in product(SHAPES, COLOURS, TEXTURES))
    return (*large, *(Item(*values, size="small") for values in product(SHAPES, COLOURS)))


def all_faces() -> tuple[Face, ...]:
    """Every face there is (288)."""
    return tuple(Face(*values) for values in product(SKINS, HAIRS, (False, True), (None, *HATS), EXPRESSIONS))


def all_things() -> tuple[Thing | None, ...]:
    """Everything a cell can hold, the empty cell first (433)."""
    return (None, *all_items(), *all_faces())
