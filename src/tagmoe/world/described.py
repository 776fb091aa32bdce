"""Pictures that an instruction describes: new things, a new person, a whole scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import scene as world
from .instructions import caption
from .mentions import FLIPPED, Mention, Mentions, Place, fits
from .scene import PLACES, Background, Face, Item, Scene, Thing

_EMPTY = Scene((None, None, None, None))
_COLOURLESS = ("sketch", "sepia")


def described_colour(thing: Mention, scene: Scene | None = None) -> str | None:
    """The colour that is said of a new thing. In a style that hides colours it may be left out."""
    colours: list[str | None] = [
        thing.before.get("colour"),
        *(value for kind, value in thing.after if kind == "colour"),
    ]
    unsaid = world.COLOURS[0] if scene is not None and scene.style in _COLOURLESS else None
    return next((colour for colour in colours if colour in world.COLOURS), unsaid)


def described_item(thing: Mention, colour: str) -> Item:
    size = thing.said("size") or "large"
    return Item(thing.noun, colour, "plain" if size == "small" else thing.said("texture") or "plain", size)


def described_face(said: Mentions) -> Face | None:
    """A person whose look and hair are said; what is not said of skin is light."""
    look = said.one(world.EXPRESSIONS)
    hair = next((hair for hair in said.hairs if hair in world.HAIRS), None)
    skins = [mention.before.get("skin") or mention.before.get("size") for mention in said.of("skin")]
    skin = next((skin for skin in skins if skin in world.SKINS), None) or said.one(("tan", "dark"))
    if look is None or hair is None:
        return None
    hats = [hat.said("colour") for hat in said.of("hat")]
    hat = next((colour for colour in hats if colour in world.HATS), None)
    return Face(skin or "light", hair, bool(said.of("sunglasses")), hat, look)


def described_scenes(
    said: Mentions, *, places: bool = True, style: bool = True, like: Scene | None = None
) -> Iterator[str]:
    """The caption of the picture that the words describe, if they describe all its things in full.

    like: the scene of the picture whose style it takes. With it every place must be said; without it a thing takes the
    next free cell.
    """
    things: list[tuple[Thing, Place | None]] = []
    for mention in said.things:
        new: Thing | None = described_face(said) if mention.noun == "person" else None
        if mention.noun in world.SHAPES and (colour := described_colour(mention, like)) is not None:
            new = described_item(mention, colour)
        if new is None:
            return
        count = 2 if mention.plural else 1
        where: Sequence[Place | None] = mention.places or said.free_places or [None]
        if count == 2 and len(where) == 1 and where[0] is not None and where[0][1] is None:
            where = [(where[0][0], "left"), (where[0][0], "right")]
        things += [(new, where[k] if k < len(where) else None) for k in range(count)]
    if not things or len(things) > len(PLACES):
        return
    cells: list[int] = []
    for k, (_, place) in enumerate(things):
        free = [i for i in range(len(PLACES)) if i not in cells]
        if places and place is None and k and said.any("under", "above", "beside"):
            height, side = PLACES[cells[k - 1]].split()
            place = (height, FLIPPED[side]) if said.any("beside") else (FLIPPED[height], side)
        if places and like is not None and place is None:
            return
        fit = free if place is None or not places else [i for i in free if fits(i, place)]
        if not fit:
            return
        cells.append(fit[0])
    scene = _EMPTY.put(*((place, thing) for place, (thing, _) in zip(cells, things, strict=True)))
    pattern = next((p for p in said.patterns if p != "plain"), "plain")
    scene = replace(scene, background=Background(said.grounds[0] if said.grounds else "white", pattern))
    if style:
        scene = replace(scene, style=said.one(world.STYLES[1:]) or "flat")
    light = said.one(world.LIGHTS[1:])
    text, _ = caption(replace(scene, light=light or "day"), places=places, style=style)
    yield text if places else text.replace("small ", "")
