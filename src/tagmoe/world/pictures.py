"""Cases about the whole picture: background, style, light, viewpoint, and pictures made anew."""

from __future__ import annotations

from dataclasses import replace

from .dice import Dice
from .edits import Edit
from .instructions import (
    LIGHT_PHRASES,
    STYLE_PHRASES,
    background_phrase,
    background_slots,
    caption,
)
from .scene import (
    BACKGROUNDS,
    LIGHTS,
    PATTERNS,
    PLACES,
    SHAPES,
    STYLES,
    Background,
    Face,
    Scene,
)


def background(dice: Dice) -> Edit:
    """Change the background's colour, and sometimes its pattern too."""
    source = dice.scene("lit", extra=(1, 4))
    colour = dice.other(BACKGROUNDS, source.background.colour)
    if dice.chance(0.6):
        target = replace(source, background=replace(source.background, colour=colour))
        return Edit(source, target, {"colour": colour}, {"background.colour": colour})
    new = Background(colour, dice.pick(PATTERNS))
    values = {"background": background_phrase(new, say_plain=True)}
    return Edit(source, replace(source, background=new), values, background_slots(new, say_plain=True), variant="both")


def pattern(dice: Dice) -> Edit:
    """Change the background's pattern."""
    source = dice.scene(extra=(1, 4))
    new = dice.other(PATTERNS, source.background.pattern)
    target = replace(source, background=replace(source.background, pattern=new))
    return Edit(source, target, {"pattern": new}, {"background.pattern": new})


def style(dice: Dice) -> Edit:
    """Put a flat picture into a style."""
    source = dice.scene("flat", extra=(1, 4))
    new = dice.pick(STYLES[1:])
    return Edit(source, replace(source, style=new), {"style": STYLE_PHRASES[new]}, {"style": new})


def destyle(dice: Dice) -> Edit:
    """Make a picture in a style flat again."""
    target = dice.scene("flat", extra=(1, 4))
    old = dice.pick(("mosaic", "negative"))  # the styles that hide nothing
    values = {"style": "the " + STYLE_PHRASES[old].removeprefix("a ")}
    return Edit(replace(target, style=old), target, values, {"style": "flat"})


def light(dice: Dice) -> Edit:
    """Change daylight to another light."""
    source = dice.scene("flat", extra=(1, 4))
    new = dice.pick(LIGHTS[1:])
    return Edit(source, replace(source, light=new), {"light": LIGHT_PHRASES[new]}, {"light": new})


def relight(dice: Dice) -> Edit:
    """Bring the daylight back."""
    target = dice.scene("flat", extra=(1, 4))
    return Edit(replace(target, light=dice.pick(LIGHTS[1:])), target, {}, {"light": "day"})


def viewpoint(dice: Dice) -> Edit:
    """Look from behind: left and right change places."""
    while True:
        source = dice.scene(extra=(1, 4))
        a, b, c, d = source.cells
        if (a, c) != (b, d):
            return Edit(source, replace(source, cells=(b, a, d, c)))


def generate(dice: Dice) -> Edit:
    """Make a picture from words alone: a person, or one or two items."""
    roll = dice.pick(range(10))
    empty = Scene((None, None, None, None), dice.background())
    if roll < 2:  # a person, whose description leaves little room
        face = dice.face()
        scene = empty.put((dice.pick(range(4)), face))
        if face.glasses or face.hat:
            scene = replace(scene, background=Background() if face.glasses and face.hat else _unpatterned(scene))
    elif roll < 6:
        scene = empty.put((dice.pick(range(4)), dice.item()))
        style, light = dice.setting("any")
        scene = replace(scene, style=style, light=light)
    else:
        first, second = dice.places(2)
        fancy = dice.chance(0.5)
        scene = empty.put((first, dice.item() if fancy else dice.plain_item()), (second, dice.plain_item()))
        if fancy:
            scene = replace(scene, background=_unpatterned(scene))
    text, slots = caption(scene)
    return Edit(None, scene, {"scene": text}, slots)


def _unpatterned(scene: Scene) -> Background:
    return Background(scene.background.colour)


def subject(dice: Dice) -> Edit:
    """Show the thing of the source at another place on a new background."""
    thing = dice.face() if dice.chance(0.35) else replace(dice.item(), size="large")
    source = Scene((None, None, None, None)).put((dice.pick(range(4)), thing))
    place = dice.pick(range(4))
    new = replace(dice.background(), colour=dice.pick(BACKGROUNDS[1:]))
    target = Scene((None, None, None, None), new).put((place, thing))
    kind = "person" if isinstance(thing, Face) else "thing"
    values = {"kind": kind, "place": PLACES[place], "background": background_phrase(new)}
    return Edit(source, target, values, {"ref.kind": kind, "new.place": PLACES[place], **background_slots(new)})


def style_ref(dice: Dice) -> Edit:
    """Make a new picture in the style of the source."""
    style = dice.pick(STYLES[1:])
    source = replace(dice.scene("flat", extra=(1, 4)), style=style)
    empty = Scene((None, None, None, None), dice.background(), style)
    if dice.chance(0.6):
        target = empty.put((dice.pick(range(4)), dice.item()))
    else:
        first, second = dice.places(2)
        target = replace(empty, background=Background()).put((first, dice.item()), (second, dice.plain_item()))
    text, slots = caption(target, style=False)
    return Edit(source, target, {"scene": text}, {**slots, "style": "this"})


def structure(dice: Dice) -> Edit:
    """Fill a structure map with one to three items."""
    shapes = list(SHAPES)
    things = []
    for _ in range(dice.pick((1, 2, 2, 3))):  # different shapes, or the caption could not say which is which
        item = dice.item(shapes)
        shapes.remove(item.shape)
        things.append(item)
    target = dice.scene("flat", things=things, extra=(0, 0))
    if len(things) > 2:
        target = replace(target, background=_unpatterned(target))
    text, slots = caption(target, places=False)
    slots = {key: value for key, value in slots.items() if not key.endswith(".size")}
    return Edit(None, target, {"scene": text.replace("small ", "")}, slots, silhouette=True)
