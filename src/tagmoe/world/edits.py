"""Edits of things: what one case of each local or multi-region task changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .dice import Dice
from .instructions import PLURALS, Slots, refer, thing_phrase, thing_slots
from .scene import (
    COLOURS,
    EXPRESSIONS,
    HAIRS,
    HATS,
    HELD_OUT_COMBINATIONS,
    PLACES,
    SHAPES,
    TEXTURES,
    Face,
    Item,
    Scene,
    Thing,
)


@dataclass(frozen=True)
class Edit:
    """One drawn case: scenes before and after, and what the instruction says.

    `variant` picks the templates ("" for the task's own). `silhouette`: the source is the target's structure map.
    """

    source: Scene | None
    target: Scene
    values: dict[str, str] = field(default_factory=dict)
    slots: Slots = field(default_factory=dict)
    variant: str = ""
    silhouette: bool = False


def _place_of(scene: Scene, thing: object) -> int:
    return next(i for i, cell in enumerate(scene.cells) if cell is thing)


def _item_at(scene: Scene, place: int) -> Item:
    thing = scene.cells[place]
    assert isinstance(thing, Item)
    return thing


def _changed(
    dice: Dice,
    source: Scene,
    place: int,
    new: Thing | None,
    says: dict[str, str],
    slots: Slots,
    variant: str = "",
) -> Edit:
    """The edit that puts `new` where a thing is. says, slots: what the instruction says beside which thing it is."""
    text, referred = refer(dice, source, place)
    return Edit(source, source.put((place, new)), {"ref": text, **says}, {**referred, **slots}, variant)


def add(dice: Dice) -> Edit:
    """Put a new thing, seldom a person, into an empty cell."""
    source = dice.scene(extra=(1, 3))
    place = dice.pick(source.empty)
    new = dice.item()
    thing = dice.face() if source.face is None and dice.chance(0.12) else new
    if isinstance(thing, Face):
        thing = replace(thing, glasses=False, hat=None)
    values = {"new": thing_phrase(thing), "place": PLACES[place]}
    return Edit(source, source.put((place, thing)), values, {**thing_slots("new", thing), "new.place": PLACES[place]})


def remove(dice: Dice) -> Edit:
    """Take a thing away."""
    source = dice.scene(extra=(1, 4))
    return _changed(dice, source, dice.pick(source.occupied), None, {}, {})


def replace_item(dice: Dice) -> Edit:
    """Make an item another shape, often in another colour too."""
    source = dice.scene(things=(dice.item(),), extra=(0, 3))
    place = dice.pick(source.items)
    old = _item_at(source, place)
    text, slots = refer(dice, source, place)
    if source.style == "flat" and dice.chance(0.5):
        colour = dice.other(COLOURS, old.colour)
        new = replace(old, shape=dice.shape_for(colour, old.shape), colour=colour)
        says = Item(new.shape, new.colour)
        values = {"ref": text, "new": thing_phrase(says)}
        return Edit(source, source.put((place, new)), values, {**slots, **thing_slots("new", says)})
    new = replace(old, shape=dice.shape_for(old.colour, old.shape))
    values = {"ref": text, "new": f"a {new.shape}"}
    return Edit(source, source.put((place, new)), values, {**slots, "new.shape": new.shape})


def recolour(dice: Dice) -> Edit:
    """Give an item another colour."""
    source = dice.scene("lit", things=(dice.item(),), extra=(0, 3))
    place = dice.pick(source.items)
    old = _item_at(source, place)
    colour = dice.colour_for(old.shape, old.colour)
    return _changed(dice, source, place, replace(old, colour=colour), {"colour": colour}, {"new.colour": colour})


def retexture(dice: Dice) -> Edit:
    """Give a large item another texture."""
    source = dice.scene(things=(replace(dice.item(), size="large"),), extra=(0, 3))
    place = dice.pick([i for i in source.items if _item_at(source, i).size == "large"])
    old = _item_at(source, place)
    texture = dice.other(TEXTURES, old.texture)
    new = replace(old, texture=texture)
    return _changed(dice, source, place, new, {"texture": texture}, {"new.texture": texture})


def resize(dice: Dice) -> Edit:
    """Make a plain item small or large."""
    source = dice.scene(things=(replace(dice.plain_item(), size=dice.pick(("small", "large"))),), extra=(0, 3))
    place = dice.pick([i for i in source.items if _item_at(source, i).texture == "plain"])
    old = _item_at(source, place)
    size = "small" if old.size == "large" else "large"
    return _changed(dice, source, place, replace(old, size=size), {}, {"new.size": size}, variant=size)


def move(dice: Dice) -> Edit:
    """Move a thing into an empty cell."""
    source = dice.scene(extra=(1, 3))
    place, goal = dice.pick(source.occupied), dice.pick(source.empty)
    text, slots = refer(dice, source, place)
    target = source.put((place, None), (goal, source.cells[place]))
    return Edit(source, target, {"ref": text, "place": PLACES[goal]}, {**slots, "new.place": PLACES[goal]})


def swap(dice: Dice) -> Edit:
    """Let two things change places."""
    first = dice.item()
    other = dice.face() if dice.chance(0.25) else dice.item([s for s in SHAPES if s != first.shape])
    source = dice.scene(things=(first, other), extra=(0, 2))
    a, b = _place_of(source, first), _place_of(source, other)
    text, slots = refer(dice, source, a)
    text2, slots2 = refer(dice, source, b, "ref2")
    target = source.put((a, other), (b, first))
    return Edit(source, target, {"ref": text, "ref2": text2}, {**slots, **slots2})


def _with_face(dice: Dice, face: Face, kinds: str = "any") -> tuple[Scene, int]:
    source = dice.scene(kinds, things=(face,), extra=(0, 2))
    return source, _place_of(source, face)


def expression(dice: Dice) -> Edit:
    """Change the person's expression."""
    face = dice.face()
    source, place = _with_face(dice, face)
    look = dice.other(EXPRESSIONS, face.expression)
    return Edit(source, source.put((place, replace(face, expression=look))), {"look": look}, {"new.expression": look})


def wear(dice: Dice) -> Edit:
    """Put sunglasses or a hat on the person."""
    face = dice.face()
    if dice.chance(0.5):
        source, place = _with_face(dice, replace(face, glasses=False))
        new = replace(face, glasses=True)
        return Edit(source, source.put((place, new)), {"clothes": "sunglasses"}, {"new.glasses": "sunglasses"})
    source, place = _with_face(dice, replace(face, hat=None), "lit")
    hat = dice.pick(HATS)
    return Edit(source, source.put((place, replace(face, hat=hat))), {"clothes": f"a {hat} hat"}, {"new.hat": hat})


def take_off(dice: Dice) -> Edit:
    """Take sunglasses or the hat off the person."""
    face = dice.face()
    if dice.chance(0.5):
        source, place = _with_face(dice, replace(face, glasses=True))
        new = replace(face, glasses=False)
        return Edit(source, source.put((place, new)), {"clothes": "sunglasses"}, {"old.clothes": "sunglasses"})
    source, place = _with_face(dice, replace(face, hat=dice.pick(HATS)))
    return Edit(source, source.put((place, replace(face, hat=None))), {"clothes": "hat"}, {"old.clothes": "hat"})


def hair(dice: Dice) -> Edit:
    """Change the colour of the person's hair."""
    face = dice.face()
    source, place = _with_face(dice, face, "lit")
    new = dice.other(HAIRS, face.hair)
    return Edit(source, source.put((place, replace(face, hair=new))), {"hair": new}, {"new.hair": new})


def _group(dice: Dice, kinds: str) -> tuple[Scene, list[int], str, Slots]:
    """A scene with at least two items of one shape (or colour): their places, their name, and the facts named."""
    first = dice.item()
    if dice.chance(0.6):
        source = dice.scene(kinds, things=(first, dice.item((first.shape,))), extra=(0, 2))
        places = [i for i in source.items if _item_at(source, i).shape == first.shape]
        return source, places, PLURALS[first.shape], {"group.shape": first.shape}
    source = dice.scene("lit", things=(first, dice.item(colours=(first.colour,))), extra=(0, 2))
    places = [i for i in source.items if _item_at(source, i).colour == first.colour]
    return source, places, f"{first.colour} things", {"group.colour": first.colour}


def multi_recolour(dice: Dice) -> Edit:
    """Give one colour to all things, or to a group of items."""
    if dice.chance(0.4):
        source = dice.scene("lit", things=(dice.item(), dice.item()))
        while source.face is not None:  # a person has no single colour
            source = dice.scene("lit", things=(dice.item(), dice.item()))
        places, name, slots, variant = list(source.items), "", {"group.kind": "everything"}, "all"
    else:
        source, places, name, slots = _group(dice, "lit")
        variant = "group"
    old = [_item_at(source, i) for i in places]
    free = [c for c in COLOURS if all(c != item.colour for item in old)] or [
        c for c in COLOURS if any(c != item.colour for item in old)
    ]
    # Red and yellow are in no held-out pair, so one of them is always left when the dice avoid those pairs.
    known = [c for c in free if dice.seek or not any((item.shape, c) in HELD_OUT_COMBINATIONS for item in old)]
    colour = dice.pick(known or [c for c in ("red", "yellow") if any(c != item.colour for item in old)])
    target = source.put(*((i, replace(item, colour=colour)) for i, item in zip(places, old, strict=True)))
    return Edit(source, target, {"group": name, "colour": colour}, {**slots, "new.colour": colour}, variant=variant)


def multi_remove(dice: Dice) -> Edit:
    """Take a group of items away."""
    source, places, name, slots = _group(dice, "any")
    return Edit(source, source.put(*((i, None) for i in places)), {"group": name}, slots)
