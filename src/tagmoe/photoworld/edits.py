"""How each task of PhotoWorld makes a pair: two scenes or pictures, the words between them, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from . import looks
from .roots import Cutout, Roots
from .scene import MAX_THINGS, Placed, Scene, Stage, alone, draw, matte
from .words import say

T = TypeVar("T")
Pictures = tuple[np.ndarray, ...]
LEAST_CHANGE = 22.0
"""Least root mean square of the change within the mask, in grey levels: a smaller one is hard to see, and less than
what an autoencoder loses would pass for it."""
COLOURS = {"white": (250, 250, 250), "grey": (150, 150, 152), "black": (14, 14, 16), "beige": (226, 208, 178)}
COLOURS |= {"blue": (64, 108, 178), "green": (78, 142, 88), "pink": (236, 170, 190)}
_WITH_REFERENCE = 0.5


@dataclass(frozen=True, eq=False)
class Edit:
    """A pair, without its tags. back: (task, instruction, sources, roles) of the edit to `before`; see `Sample`."""

    instruction: str
    sources: Pictures
    roles: tuple[str, ...]
    before: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    roots: tuple[str, ...]
    back: tuple[str, str, Pictures, tuple[str, ...]] | None = None
    variant: str = ""
    kept: np.ndarray | None = None


class Draw:
    """Draws what a pair is made of, from one generator. held_out: use the wordings that training lacks."""

    def __init__(self, rng: np.random.Generator, roots: Roots, size: int, held_out: bool) -> None:
        self.rng, self.roots, self.size, self.held_out = rng, roots, size, held_out

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def say(self, key: str, **values: str) -> str:
        return say(self.rng, key, held_out=self.held_out, **values)

    def stage(self, but: str | None = None) -> Stage:
        """A crop of a ground, of another group than `but`."""
        ground = self.pick([one for one in self.roots.grounds if one.group != but])
        height, width = ground.pixels.shape[:2]
        top, left = (int(self.rng.random() * (side - self.size + 1)) for side in (height, width))
        pixels = ground.pixels[top : top + self.size, left : left + self.size]
        if self.chance(0.5):
            pixels = pixels[:, ::-1]
        horizon = min(max(ground.horizon - top, round(0.3 * self.size)), round(0.6 * self.size))
        return Stage(ground.digest, np.ascontiguousarray(pixels), horizon)

    def group_of(self, stage: Stage) -> str:
        """The group of a stage's ground."""
        return next(one for one in self.roots.grounds if one.digest == stage.root).group

    def cutout(self, but: Sequence[Placed] = ()) -> Cutout:
        """A cut-out of another group than those, and of another name if there is one."""
        groups, nouns = ({getattr(one.cutout, name) for one in but} for name in ("group", "noun"))
        others = [one for one in self.roots.cutouts if one.group not in groups]
        return self.pick([one for one in others if one.noun not in nouns] or others)

    def placed(self, scene: Scene, cutout: Cutout | None = None) -> Placed:
        """A thing for a free column of the scene."""
        column = self.pick(scene.free())
        return Placed(cutout or self.cutout(scene.things), column, self.chance(0.5), self.chance(0.5))

    def scene(self, fewest: int, most: int) -> Scene:
        """A scene of so many things, of different groups as far as there are any."""
        most = min(most, MAX_THINGS, len({one.group for one in self.roots.cutouts}) - 1)
        scene = Scene(self.stage())
        for _ in range(fewest + int(self.rng.random() * (max(most, fewest) - fewest + 1))):
            scene = scene.plus(self.placed(scene))
        return scene


def changed(before: np.ndarray, target: np.ndarray, *covers: np.ndarray) -> np.ndarray | None:
    """(S, S) bool: pixels that differ, and those under the covers; None where the change is too small to be seen."""
    # Three channels one after the other: a reduction over so short an axis takes most of the time.
    bits = before ^ target
    mask: np.ndarray = (bits[..., 0] | bits[..., 1] | bits[..., 2]) != 0
    for cover in covers:
        mask |= cover > 0.02
    if not mask.any():
        return None
    step = (target[mask].astype(np.float32) - before[mask]) ** 2
    return mask if float(step.mean()) >= LEAST_CHANGE**2 else None


def _is_seen(picture: np.ndarray, ground: np.ndarray, cover: np.ndarray) -> bool:
    """Whether a thing stands out from the ground behind it."""
    inside = cover > 0.5
    step = (picture[inside].astype(np.float32) - ground[inside]) ** 2
    return bool(inside.any() and float(step.mean()) >= LEAST_CHANGE**2)


def _whole(picture: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """As `changed`, but all pixels may change."""
    step = (picture.astype(np.float32) - other) ** 2
    return np.ones(picture.shape[:2], dtype=bool) if float(step.mean()) >= LEAST_CHANGE**2 else None


def _roots(*scenes: Scene, more: Sequence[str] = ()) -> tuple[str, ...]:
    found = [scene.stage.root for scene in scenes]
    found += [thing.cutout.digest for scene in scenes for thing in scene.things]
    return tuple(dict.fromkeys([*found, *more]))


def add(dice: Draw) -> Edit | None:
    """One thing more, said by its caption and place, or shown in a second picture."""
    scene = dice.scene(0, 2)
    new = dice.placed(scene)
    after = scene.plus(new)
    before, target = draw(scene), draw(after)
    mask = changed(before, target, matte(after, (new,)))
    if mask is None:
        return None
    by_picture = dice.chance(_WITH_REFERENCE)
    said = {"new": new.cutout.phrase, "noun": new.cutout.noun, "place": new.place}
    sources: Pictures = (before, alone(new.cutout, dice.size)) if by_picture else (before,)
    return Edit(
        dice.say("add.reference" if by_picture else "add", **said),
        sources,
        ("source", "reference")[: len(sources)],
        before,
        target,
        mask,
        _roots(after),
        ("remove", dice.say("remove", noun=new.cutout.noun), (target,), ("source",)),
        "reference" if by_picture else "named",
    )


def remove(dice: Draw) -> Edit | None:
    """One thing less."""
    scene = dice.scene(1, 3)
    old = dice.pick(scene.things)
    after = scene.without(old)
    before, target = draw(scene), draw(after)
    mask = changed(before, target, matte(scene, (old,)))
    if mask is None:
        return None
    back = dice.say("add", new=old.cutout.phrase, place=old.place)
    return Edit(
        dice.say("remove", noun=old.cutout.noun),
        (before,),
        ("source",),
        before,
        target,
        mask,
        _roots(scene),
        ("add", back, (target,), ("source",)),
    )


def replace_thing(dice: Draw) -> Edit | None:
    """Another thing at the same place, said or shown."""
    scene = dice.scene(1, 2)
    old = dice.pick(scene.things)
    new = replace(old, cutout=dice.cutout(scene.things))
    after = scene.without(old).plus(new)
    before, target = draw(scene), draw(after)
    mask = changed(before, target, matte(scene, (old,)), matte(after, (new,)))
    if mask is None:
        return None
    by_picture = dice.chance(_WITH_REFERENCE)
    said = {"old": old.cutout.noun, "new": new.cutout.phrase, "noun": new.cutout.noun}
    sources: Pictures = (before, alone(new.cutout, dice.size)) if by_picture else (before,)
    back = dice.say("replace", old=new.cutout.noun, new=old.cutout.phrase)
    return Edit(
        dice.say("replace.reference" if by_picture else "replace", **said),
        sources,
        ("source", "reference")[: len(sources)],
        before,
        target,
        mask,
        _roots(scene, after),
        ("replace", back, (target,), ("source",)),
        "reference" if by_picture else "named",
    )


def move(dice: Draw) -> Edit | None:
    """The same thing at another place."""
    scene = dice.scene(1, 2)
    old = dice.pick(scene.things)
    column = dice.pick(scene.free())
    new = replace(old, column=column, near=dice.chance(0.5))
    after = scene.without(old).plus(new)
    before, target = draw(scene), draw(after)
    mask = changed(before, target, matte(scene, (old,)), matte(after, (new,)))
    if mask is None:
        return None
    noun = old.cutout.noun
    back = dice.say("move", noun=noun, place=old.place)
    text = dice.say("move", noun=noun, place=new.place)
    return Edit(
        text, (before,), ("source",), before, target, mask, _roots(scene), ("move", back, (target,), ("source",))
    )


def background(dice: Draw) -> Edit | None:
    """The same things in front of another photograph, or of a plain colour."""
    scene = dice.scene(1, 2)
    before = draw(scene)
    if dice.chance(0.5):
        colour = dice.pick(tuple(COLOURS))
        stage = replace(scene.stage, pixels=np.broadcast_to(np.array(COLOURS[colour], np.uint8), before.shape).copy())
        more: tuple[str, ...] = ()
        text, variant = dice.say("background.plain", colour=colour), "plain"
        sources: Pictures = (before,)
    else:
        other = dice.stage(but=dice.group_of(scene.stage))
        # Things stay where they are, so they keep the horizon that they were placed by.
        stage = replace(other, horizon=scene.stage.horizon)
        text, variant, more = dice.say("background"), "picture", (other.root,)
        sources = (before, other.pixels)
    target = draw(replace(scene, stage=stage))
    mask = _whole(before, target)
    if mask is None or not all(_is_seen(target, stage.pixels, matte(scene, (one,))) for one in scene.things):
        return None
    back = ("background", dice.say("background"), (target, scene.stage.pixels), ("source", "reference"))
    roles = ("source", "reference")[: len(sources)]
    return Edit(text, sources, roles, before, target, mask, _roots(scene, more=more), back, variant, matte(scene) > 0.5)


def grey(dice: Draw) -> Edit | None:
    """Everything but one thing loses its colours."""
    scene = dice.scene(1, 2)
    kept = dice.pick(scene.things)
    before = draw(scene)
    hidden = matte(replace(scene, things=tuple(one for one in scene.things if one.near and not kept.near)))
    cover = np.minimum(matte(scene, (kept,)), 1.0 - hidden)
    target = looks.grey(before, cover)
    mask = changed(before, target, 1.0 - cover)
    if mask is None:
        return None
    text = dice.say("grey", noun=kept.cutout.noun)
    return Edit(text, (before,), ("source",), before, target, mask, _roots(scene))


def _of_whole(
    dice: Draw, scene: Scene, source: np.ndarray, target: np.ndarray, text: str, variant: str = "", **more: Any
) -> Edit | None:
    """A pair in which every pixel may change."""
    mask = _whole(source, target)
    if mask is None:
        return None
    return Edit(text, (source,), ("source",), source, target, mask, _roots(scene), variant=variant, **more)


def night(dice: Draw) -> Edit | None:
    """The same scene in moonlight."""
    scene = dice.scene(0, 2)
    picture = draw(scene)
    target = looks.night(picture)
    back = ("night", dice.say("night.day"), (target,), ("source",))
    return _of_whole(dice, scene, picture, target, dice.say("night"), back=back)


def style(dice: Draw) -> Edit | None:
    """The same scene in another style."""
    scene = dice.scene(0, 2)
    name = dice.pick(tuple(looks.STYLES))
    picture = draw(scene)
    target = looks.STYLES[name](picture)
    text = dice.say("style", style=name)
    back = None
    if name in looks.INVERTIBLE:
        back = ("style", dice.say("style.photograph", style=f"this {name.split(' ', 1)[1]}"), (target,), ("source",))
    return _of_whole(dice, scene, picture, target, text, name, back=back)


def restore(dice: Draw) -> Edit | None:
    """A damaged photograph; the target is the photograph."""
    scene = dice.scene(0, 2)
    damage = dice.pick(tuple(looks.DAMAGE))
    target = draw(scene)
    source = looks.DAMAGE[damage](target, dice.rng)
    text = dice.say("restore", damage=damage)
    if damage == "scratches":
        mask = changed(source, target)
        return (
            mask
            if mask is None
            else Edit(text, (source,), ("source",), source, target, mask, _roots(scene), variant=damage)
        )
    return _of_whole(dice, scene, source, target, text, damage)


def enlarge(dice: Draw) -> Edit | None:
    """A photograph of a quarter of the side; the target is the photograph."""
    scene = dice.scene(0, 2)
    target = draw(scene)
    source = looks.small(target)
    step = (target.astype(np.float32) - source) ** 2
    if float(step.mean()) < (LEAST_CHANGE / 2) ** 2:
        return None
    mask = np.ones(target.shape[:2], dtype=bool)
    return Edit(dice.say("enlarge"), (source,), ("source",), source, target, mask, _roots(scene))


def subject(dice: Draw) -> Edit | None:
    """The thing of the first picture at the place of the second."""
    scene = Scene(dice.stage())
    new = dice.placed(scene)
    after = scene.plus(new)
    before, target = draw(scene), draw(after)
    mask = changed(before, target, matte(after, (new,)))
    if mask is None:
        return None
    text = dice.say("subject", noun=new.cutout.noun, place=new.place)
    sources = (alone(new.cutout, dice.size), before)
    return Edit(text, sources, ("reference", "reference"), before, target, mask, _roots(after))


def structure(dice: Draw) -> Edit | None:
    """A photograph from its edge map."""
    scene = dice.scene(1, 1)
    target = draw(scene)
    lines = looks.edges(target)
    thing = scene.things[0]
    text = dice.say("structure", new=thing.cutout.phrase, place=thing.place)
    back = ("edges", dice.say("structure.edges"), (target,), ("source",))
    mask = _whole(lines, target)
    if mask is None:
        return None
    return Edit(text, (lines,), ("control",), lines, target, mask, _roots(scene), back)
