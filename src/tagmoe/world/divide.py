"""What training may show and what is kept for tests: a hash of the content decides, for every seed.

A scene belongs to training or to test, and a case to the side on which all its scenes lie. So no scene and no pair of
scenes is on both sides. A structure map is no scene: it shows shapes alone, and the same map occurs on both sides above
different targets. A wording that is held out for one task can be another task's training wording ("paint a red star at
the top left"): the hash divides those texts too.

The packaged model was trained before this divide. Its test cases have none of its pairs, but one scene of a pair may
have been in another pair of its training.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from . import scene as world
from .instructions import LIGHT_PHRASES, PLURALS, STYLE_PHRASES
from .scene import Scene, Thing
from .templates import TEMPLATES

TEST_SHARE = 0.2
"""The share of scenes, and of ambiguous wordings, that is kept for tests."""
SEEN = Path(__file__).with_name("seen.npz")
"""Pairs and wordings of the test side that the packaged model was trained on, in the stream from before this divide."""


def content_key(text: str) -> int:
    """64 bits of a content's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def scene_text(scene: Scene) -> str:
    """A scene as text; equal for equal scenes only."""
    ground = scene.background
    return "|".join([*map(_thing_text, scene.cells), ground.colour, ground.pattern, scene.style, scene.light])


@cache
def _thing_text(thing: Thing | None) -> str:
    return repr(thing)


def pair_text(source: Scene | None, target: Scene) -> str:
    """The pictures of a case as text. source: None where the target alone is a scene."""
    return f"{'' if source is None else scene_text(source)} -> {scene_text(target)}"


@lru_cache(maxsize=1 << 16)
def is_kept_for_test(text: str) -> bool:
    """The side of a content, the same for every seed."""
    return content_key(text) < TEST_SHARE * 2.0**64


def divides(source: Scene | None, target: Scene, instruction: str, *, test: bool, held_out: bool) -> bool:
    """Whether a case may be drawn for its side. held_out: whether its wording is one that training is to lack."""
    if any(is_kept_for_test(scene_text(scene)) != test for scene in (source, target) if scene is not None):
        return False
    to_divide = (held_out or not test) and is_ambiguous(instruction)
    return not to_divide or is_kept_for_test(instruction) == test


def is_ambiguous(instruction: str) -> bool:
    """Whether this can be both a training wording and a held-out one, of two tasks. Rather yes than no."""
    return all(pattern.fullmatch(instruction) for pattern in _wordings())


@cache
def _wordings() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of all held-out wordings and of all training wordings."""
    colours, shapes, places = _one_of(world.COLOURS), _one_of(world.SHAPES), _one_of(world.PLACES)
    reference = f"the (?:person|thing|(?:{colours} )?{shapes})(?: at the {places})?"
    thing = f"(?:an? (?:(?:small|{colours}|{_one_of(world.TEXTURES)}) )*{shapes}|a {_one_of(world.EXPRESSIONS)} person)"
    styles = [phrase for style in STYLE_PHRASES.values() for phrase in (style, "the " + style.split(" ", 1)[1])]
    slots = {
        "ref": reference,
        "ref2": reference,
        "place": places,
        "scene": f"{thing}\\b.*",
        "new": f"{thing}\\b.*",
        "background": f"a {_one_of(world.BACKGROUNDS)} .*background",
        "colour": _one_of((*world.COLOURS, *world.BACKGROUNDS)),
        "texture": _one_of(world.TEXTURES),
        "pattern": _one_of(world.PATTERNS),
        "look": _one_of(world.EXPRESSIONS),
        "hair": _one_of(world.HAIRS),
        "clothes": f"(?:sunglasses|hat|a {_one_of(world.HATS)} hat)",
        "group": f"(?:{colours} things|{_one_of(PLURALS.values())})",
        "kind": "(?:person|thing)",
        "style": _one_of(styles),
        "light": _one_of(LIGHT_PHRASES[light] for light in world.LIGHTS[1:]),
    }

    def pattern(templates: Iterable[str]) -> re.Pattern[str]:
        parts = (re.split(r"\{(\w+)\}", template) for template in templates)
        return re.compile(
            "|".join("".join(slots[p] if i % 2 else re.escape(p) for i, p in enumerate(row)) for row in parts)
        )

    groups = TEMPLATES.values()
    return (
        pattern(template for group in groups for template in group.held_out),
        pattern(template for group in groups for template in group.train),
    )


def _one_of(values: Iterable[str]) -> str:
    return f"(?:{'|'.join(values)})"


def is_seen(source: Scene | None, target: Scene, instruction: str, *, held_out: bool) -> bool:
    """Whether the packaged model was trained on a case's pair of scenes, or on a wording that is to be new.

    source: None where the target alone is a scene. A scene of the pair that was seen in another pair does not count.
    """
    found = _seen()
    return content_key(pair_text(source, target)) in found or (held_out and content_key(instruction) in found)


@cache
def _seen() -> frozenset[int]:
    with np.load(SEEN) as file:
        return frozenset(int(key) for key in file["keys"])
