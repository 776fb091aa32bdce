"""Inverse instructions for TagWorld, whose scenes can be read exactly from the pixels, without a VLM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tagmoe.data.store.record import Picture
from tagmoe.pictures import load_image
from tagmoe.world import Item, Scene, read, render
from tagmoe.world.dice import Dice
from tagmoe.world.instructions import (
    LIGHT_PHRASES,
    STYLE_PHRASES,
    background_phrase,
    phrase,
    refer,
    thing_phrase,
)
from tagmoe.world.scene import PLACES

# Styles whose pictures do not show the colours of the scene.
_HIDING = ("sketch", "sepia")


def inverse_of(task: str, source: Picture, target: Picture, seed: int) -> tuple[str, str] | str:
    """(task, instruction) of the edit from the target back to the source, or the reason why there is none.

    seed: of the choice among the wordings of the training templates.
    """
    before, after = (_scene(picture) for picture in (source, target))
    if before is None or after is None:
        return "TagWorld: the oracle cannot read a picture exactly"
    if task == "style" and after.style in _HIDING:
        return "TagWorld: the target does not show what the source had"
    dice = Dice(np.random.Generator(np.random.PCG64(seed)))
    said = _said(task, before, after, dice)
    if said is None:
        return "TagWorld: no instruction of its grammar says the inverse"
    key, values = said
    return key.split(".")[0], phrase(dice, key, values, held_out=False)


def _scene(picture: Picture) -> Scene | None:
    """The scene of a picture, if rendering it gives the same pixels; else None."""
    pixels = np.asarray(load_image(picture.data))
    scene = read(pixels).scene
    return scene if scene is not None and np.array_equal(render(scene), pixels) else None


def _said(task: str, before: Scene, after: Scene, dice: Dice) -> tuple[str, dict[str, str]] | None:
    """The key of the templates, and the values to fill in, for the edit from `after` to `before`."""
    if (rest := _setting(task, before, after)) is not None:
        return rest
    changed = [place for place in range(len(PLACES)) if before.cells[place] != after.cells[place]]
    if not changed or replace(before, cells=after.cells) != after:
        return None
    if len(changed) == 2 and task in ("move", "swap"):
        return _moved(task, before, after, changed, dice)
    if len(changed) > 1:
        return None
    place = changed[0]
    old, new = before.cells[place], after.cells[place]
    if task == "add" and old is None:
        return "remove", {"ref": refer(dice, after, place)[0]}
    if task == "remove" and old is not None and new is None:
        return "add", {"new": thing_phrase(old), "place": PLACES[place]}
    if isinstance(old, Item) and isinstance(new, Item):
        return _item(task, old, new, refer(dice, after, place)[0])
    if old is None or new is None or isinstance(old, Item) or isinstance(new, Item):
        return None
    match task:
        case "expression":
            return task, {"look": old.expression}
        case "hair":
            return task, {"hair": old.hair}
        case "wear":
            return "take_off", {"clothes": "hat" if old.hat is None and new.hat is not None else "sunglasses"}
        case "take_off":
            return "wear", {"clothes": "sunglasses" if old.hat == new.hat else f"a {old.hat} hat"}
    return None


def _setting(task: str, before: Scene, after: Scene) -> tuple[str, dict[str, str]] | None:
    """As `_said`, for tasks that change the whole picture."""
    ground, other = before.background, after.background
    match task:
        case "background" if ground.pattern == other.pattern:
            return task, {"colour": ground.colour}
        case "background":
            return "background.both", {"background": background_phrase(ground, say_plain=True)}
        case "pattern":
            return task, {"pattern": ground.pattern}
        case "style":
            return "destyle", {"style": f"the {STYLE_PHRASES[after.style].removeprefix('a ')}"}
        case "destyle":
            return "style", {"style": STYLE_PHRASES[before.style]}
        case "light":
            return "relight", {}
        case "relight":
            return "light", {"light": LIGHT_PHRASES[before.light]}
        case "viewpoint":
            return task, {}
    return None


def _moved(task: str, before: Scene, after: Scene, changed: list[int], dice: Dice) -> tuple[str, dict[str, str]] | None:
    first, second = changed
    if task == "swap":
        return task, {"ref": refer(dice, after, first)[0], "ref2": refer(dice, after, second)[0]}
    here, there = (first, second) if after.cells[first] is not None else (second, first)
    return task, {"ref": refer(dice, after, here)[0], "place": PLACES[there]}


def _item(task: str, old: Item, new: Item, ref: str) -> tuple[str, dict[str, str]] | None:
    match task:
        case "replace":
            says = f"a {old.shape}" if old.colour == new.colour else thing_phrase(Item(old.shape, old.colour))
            return task, {"ref": ref, "new": says}
        case "recolour":
            return task, {"ref": ref, "colour": old.colour}
        case "retexture":
            return task, {"ref": ref, "texture": old.texture}
        case "resize":
            return f"resize.{old.size}", {"ref": ref}
    return None
