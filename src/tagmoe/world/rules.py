"""The tags that TagWorld's rules give to an instruction and a picture: the grammar read backwards, without the truth.

The words say which task it is; a task's tags are fixed but for a face, which the oracle looks for in the picture.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from tagmoe.tags import TaskDescriptor

from . import scene as world
from .edits import Edit
from .instructions import LIGHT_PHRASES, PLURALS, STYLE_PHRASES
from .oracle import read
from .scene import PLACES, Face, Scene
from .tasks import TASKS
from .templates import TEMPLATES

Picture = np.ndarray | Image.Image

# The task that starts from no picture. Its words can be those of "add" ("draw a red circle at the top left"): which of
# the two is meant, the picture says.
_WITHOUT_PICTURE = "generate"
# The picture of this task is a map, in which nobody can be read.
_FROM_A_MAP = "structure"
# What these name vanishes or becomes another thing, so that a face there does not stay.
_TAKES_AWAY = frozenset({"remove", "replace"})
_NOBODY = Scene((None, None, None, None))
_SOMEBODY = Face("light", "black")


@dataclass(frozen=True)
class RuleTags:
    """What the rules say of one request: its task and tags, or (both None) in one sentence why no rule applies.

    `reason` tells in any case how the answer came about.
    """

    task: str | None
    descriptor: TaskDescriptor | None
    reason: str


def rule_tags(instruction: str, pictures: Sequence[Picture] = ()) -> RuleTags:
    """The tags of an instruction on its source pictures, by the rules of TagWorld alone (paper 3.2).

    Letter case, commas and a full stop are free. Pictures of other sizes are resized, as the pipeline does.
    Raises ImageError for an array that is no picture.
    """
    found = _matches(instruction)
    if not found:
        return _no_rule("no rule of TagWorld's grammar matches the instruction")
    fitting = {name: words for name, words in found.items() if (name == _WITHOUT_PICTURE) != bool(pictures)}
    if not fitting:
        start = "no picture" if pictures else "a picture"
        return _no_rule(f"the words are those of the task {' or '.join(found)}, which starts from {start}")
    if len(pictures) > 1:
        return _no_rule(f"the rules know tasks of one picture, and {len(pictures)} are given")
    # No words fit two tasks that start from a picture; a test draws many of all.
    name, words = next(iter(fitting.items()))
    said = f"the words are those of the task {name}"
    if not pictures or name == _FROM_A_MAP or not TASKS[name].keeps_face:
        return RuleTags(name, _tags(name), said)
    reading = read(pictures[0])
    if reading.scene is None:
        return _no_rule(f"{said}, but the picture is none of TagWorld, so whether a face stays cannot be read")
    place = reading.scene.face
    if place is None:
        return RuleTags(name, _tags(name), f"{said}; the picture shows no face")
    if name in _TAKES_AWAY and _points_at(words["ref"], place):
        return RuleTags(name, _tags(name), f"{said}; the face in the picture does not stay")
    return RuleTags(name, _tags(name, face=True), f"{said}; the face in the picture stays")


@cache
def rule_sets() -> tuple[TaskDescriptor, ...]:
    """Every set of tags that the rules can give, each once: of every task, with and without a face that stays."""
    every = [_tags(name, face=face) for name in TASKS for face in (False, True)]
    return tuple({tags.indices: tags for tags in every}.values())


def _tags(name: str, *, face: bool = False) -> TaskDescriptor:
    """The tags of a task, when a face is in both pictures and when none is."""
    if face and name not in (_WITHOUT_PICTURE, _FROM_A_MAP):
        scene = _NOBODY.put((0, _SOMEBODY))
        return TASKS[name].tags(Edit(scene, scene))
    return TASKS[name].tags(Edit(None, _NOBODY))


def _no_rule(reason: str) -> RuleTags:
    return RuleTags(None, None, reason)


def _points_at(ref: str, place: int) -> bool:
    """Whether these words name what is at a place, where the person is: "the person", or the thing there."""
    return ref == "the person" or ref == f"the thing at the {PLACES[place]}"


# The grammar as patterns -----------------------------------------------------------------------------------------


def _matches(instruction: str) -> dict[str, dict[str, str]]:
    """The tasks that an instruction can belong to, each with what its places in the template hold."""
    text = " ".join(re.sub(r"[,.!]", " ", instruction.lower()).split())
    found: dict[str, dict[str, str]] = {}
    for task, pattern in _patterns():
        if task not in found and (match := pattern.fullmatch(text)):
            found[task] = match.groupdict()
    return found


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """A pattern for every template of every task, in training and held out."""
    return tuple(
        (key.partition(".")[0], re.compile(_pattern(template, key)))
        for key, templates in TEMPLATES.items()
        for template in (*templates.train, *templates.held_out)
    )


def _pattern(template: str, key: str) -> str:
    phrases = _phrases(key.partition(".")[0])
    parts = []
    for literal, field, *_ in string.Formatter().parse(template.replace(",", "")):
        parts.append(re.escape(literal))
        if field is not None:
            parts.append(f"(?P<{field}>{phrases[field]})")
    return "".join(parts)


@cache
def _phrases(task: str) -> dict[str, str]:
    """What can stand in each place of a task's templates, as `instructions` and the tasks write it; commas are gone."""
    shape, colour, place = _one_of(world.SHAPES), _one_of(world.COLOURS), _one_of(PLACES)
    texture = _one_of(world.TEXTURES[1:])
    item = f"an? (?:small )?(?:{texture} )?{colour} {shape}"
    person = (
        f"a {_one_of(world.EXPRESSIONS)} person with {_one_of(world.SKINS)} skin (?:and )?{_one_of(world.HAIRS)} hair"
        f"(?: (?:and )?sunglasses)?(?: (?:and )?a {_one_of(world.HATS)} hat)?"
    )
    ground, pattern = _one_of(world.BACKGROUNDS), _one_of(world.PATTERNS)
    background = f"a {ground} (?:{pattern} )?background"
    thing = f"(?:{item}|{person})"
    placed = thing if task == "structure" else f"{thing} at the {place}"
    scene = f"{placed}(?:(?: and)? {placed})*(?: on {background})?"
    scene += f"(?: as {_one_of(list(STYLE_PHRASES.values())[1:])})?(?: {_one_of(list(LIGHT_PHRASES.values())[1:])})?"
    ref = f"the (?:{shape} at the {place}|thing at the {place}|{colour} {shape}|{shape}|person)"
    return {
        "new": f"an? {shape}|{item}" if task == "replace" else thing,
        "ref": ref,
        "ref2": ref,
        "place": place,
        "colour": ground if task == "background" else colour,
        "texture": _one_of(world.TEXTURES),
        "look": _one_of(world.EXPRESSIONS),
        "clothes": "sunglasses|hat" if task == "take_off" else f"sunglasses|a {_one_of(world.HATS)} hat",
        "hair": _one_of(world.HAIRS),
        "background": background,
        "pattern": pattern,
        "style": _one_of([("the " + p.split(" ", 1)[1]) if task == "destyle" else p for p in _styles()]),
        "light": _one_of(list(LIGHT_PHRASES.values())[1:]),
        "group": f"{_one_of(list(PLURALS.values()))}|{colour} things",
        "kind": "person|thing",
        "scene": scene,
    }


def _styles() -> list[str]:
    return [phrase for style, phrase in STYLE_PHRASES.items() if style != "flat"]


def _one_of(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, words))})"
