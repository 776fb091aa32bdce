"""Tags by rule for a TagWorld instruction and picture: the grammar parses the words, and the truth is not used.

The words tell the task. A task's tags are fixed, except those for a face: the oracle looks for one in the picture.
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
from .instructions import LIGHT_PHRASES, PLURALS, STYLE_PHRASES
from .oracle import read
from .scene import PLACES
from .tasks import TASKS
from .templates import TEMPLATES

Picture = np.ndarray | Image.Image

# The task that starts from no picture. Its words can be those of "add" ("draw a red circle at the top left"). A source
# picture tells the two apart.
_WITHOUT_PICTURE = "generate"
# The picture of this task is a structure map, in which no face can be read.
_FROM_A_MAP = "structure"
# Tasks whose thing vanishes or becomes another one, so that a face there does not stay.
_TAKES_AWAY = frozenset({"remove", "replace"})


@dataclass(frozen=True)
class RuleTags:
    """What the rules say of one request: its task and tags, both None if no rule applies.

    reason: one sentence that says how the answer came about.
    """

    task: str | None
    descriptor: TaskDescriptor | None
    reason: str


def rule_tags(instruction: str, pictures: Sequence[Picture] = ()) -> RuleTags:
    """The tags of an instruction on its source pictures, by the rules of TagWorld alone (paper 3.2).

    Letter case, commas and a full stop do not matter. Pictures of other sizes are resized, as the pipeline does.
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
        return _no_rule(f"the rules cover tasks with one picture, and {len(pictures)} are given")
    # No words fit two tasks that start from a picture; a test checks many draws of every task.
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
    if name in _TAKES_AWAY and words["ref"] in ("the person", f"the thing at the {PLACES[place]}"):
        return RuleTags(name, _tags(name), f"{said}; the face in the picture does not stay")
    return RuleTags(name, _tags(name, face=True), f"{said}; the face in the picture stays")


def is_instruction(text: str) -> bool:
    """Whether a text is one of TagWorld's grammar, for whatever picture."""
    return bool(_matches(text))


@cache
def rule_sets() -> tuple[TaskDescriptor, ...]:
    """Every set of tags that the rules can give, each once: of every task, with and without a face that stays."""
    every = [_tags(name, face=face) for name in TASKS for face in (False, True)]
    return tuple({tags.indices: tags for tags in every}.values())


def _tags(name: str, *, face: bool = False) -> TaskDescriptor:
    """The tags of a task. face: whether a face is in source and target."""
    return TASKS[name].descriptor(face and name not in (_WITHOUT_PICTURE, _FROM_A_MAP))


def _no_rule(reason: str) -> RuleTags:
    return RuleTags(None, None, reason)


# The grammar as patterns -----------------------------------------------------------------------------------------


def _matches(instruction: str) -> dict[str, dict[str, str]]:
    """The tasks that an instruction can belong to, each with the values of its template's fields."""
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
    """A pattern for each field of a task's templates, for texts of `instructions` and of the tasks without commas."""
    shape, colour, place = _one_of(world.SHAPES), _one_of(world.COLOURS), _one_of(PLACES)
    texture = _one_of(world.TEXTURES[1:])
    item = f"an? (?:small )?(?:{texture} )?{colour} {shape}"
    person = (
        f"a {_one_of(world.EXPRESSIONS)} person with {_one_of(world.SKINS)} skin (?:and )?{_one_of(world.HAIRS)} hair"
        f"(?: (?:and )?sunglasses)?(?: (?:and )?a {_one_of(world.HATS)} hat)?"
    )
    styles, light = list(STYLE_PHRASES.values())[1:], _one_of(list(LIGHT_PHRASES.values())[1:])
    ground, pattern = _one_of(world.BACKGROUNDS), _one_of(world.PATTERNS)
    background = f"a {ground} (?:{pattern} )?background"
    thing = f"(?:{item}|{person})"
    placed = thing if task == "structure" else f"{thing} at the {place}"
    scene = f"{placed}(?:(?: and)? {placed})*(?: on {background})?"
    scene += f"(?: as {_one_of(styles)})?(?: {light})?"
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
        "style": _one_of([f"the {p.split(' ', 1)[1]}" if task == "destyle" else p for p in styles]),
        "light": light,
        "group": f"{_one_of(list(PLURALS.values()))}|{colour} things",
        "kind": "person|thing",
        "scene": scene,
    }


def _one_of(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, words))})"
