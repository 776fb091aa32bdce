"""Judge an edit: was the instruction carried out, and is the rest as it was?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .instructions import background_phrase, thing_phrase
from .oracle import ATTRIBUTES, Reading, read
from .sample import Sample
from .scene import PLACES, Face, Scene, Thing

# Where the whole picture is new: there is no rest that could stay as it was.
_NEW_PICTURE = ("image generation", "content customization", "style customization")
_FACE_IDENTITY = ("skin", "hair")


@dataclass(frozen=True)
class Verdict:
    """What the pixels say about one output.

    `success`: all that the instruction asks for holds; `unchanged`: the share of scene elements outside the edit that
    hold as in the source (1 where there is none); `subject`, `face`, `style`: the share preserved, None where the
    case's tags do not ask for it; `reasons`: what does not hold, in words.
    """

    success: bool
    unchanged: float
    subject: float | None
    face: float | None
    style: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Check:
    """One element of the target scene: whether it is part of the edit, whether it holds, and what is wrong if not."""

    edited: bool
    holds: bool
    reason: str


def judge(sample: Sample, image: np.ndarray | Image.Image) -> Verdict:
    """Judge an output picture (uint8 (H, W, 3) or PIL) against a case's truth, from its pixels alone.

    Raises ImageError for an array of another kind.
    """
    reading = read(image)
    checks = _checks(sample, reading)
    rest = [check.holds for check in checks if not check.edited]
    kept = sample.tags.preservation
    reasons = [check.reason for check in checks if not check.holds]
    # A blank picture can have the light or style asked for, but it is no edit of a scene with things in it; and where
    # everything was to be removed, any blank picture has no things, so the background must be the scene's own.
    things = sample.target_scene.occupied
    if things:
        scene_left = not all(reading.shows(place, None) for place in things)
    else:
        scene_left = all(check.holds for check in checks)
    if not scene_left:
        reasons.insert(0, "nothing of the scene is left")
    return Verdict(
        success=scene_left and all(check.holds for check in checks if check.edited),
        unchanged=sum(rest) / len(rest) if rest else 1.0,
        subject=_subject(sample, reading) if "identity preservation" in kept else None,
        face=_face(sample, reading) if "face preservation" in kept else None,
        style=_style(sample.target_scene, reading) if "style preservation" in kept else None,
        reasons=tuple(reasons),
    )


def _checks(sample: Sample, reading: Reading) -> list[_Check]:
    source, target = sample.source_scene, sample.target_scene
    if source is not None and sample.tags.scope[0] in _NEW_PICTURE:
        source = None
    seen = reading.scene
    checks = []
    for place, thing in enumerate(target.cells):
        edited = source is None or source.cells[place] != thing
        found = "no readable thing" if seen is None else _name(seen.cells[place])
        reason = f"{PLACES[place]}: expected {_name(thing)}, found {found}"
        checks.append(_Check(edited, reading.shows(place, thing), reason))
    ground = target.background
    found = "nothing readable" if seen is None else background_phrase(seen.background, say_plain=True)
    reason = f"background: expected {background_phrase(ground, say_plain=True)}, found {found}"
    colour_edited = source is None or source.background.colour != ground.colour
    pattern_edited = source is None or source.background.pattern != ground.pattern
    checks.append(_Check(colour_edited, reading.has_background(colour=ground.colour), reason))
    checks.append(_Check(pattern_edited, reading.has_background(pattern=ground.pattern), reason))
    for name, wanted, holds in (
        ("style", target.style, reading.has_style(target.style)),
        ("light", target.light, reading.has_light(target.light)),
    ):
        found = "nothing readable" if seen is None else getattr(seen, name)
        edited = source is None or getattr(source, name) != wanted
        checks.append(_Check(edited, holds, f"{name}: expected {wanted}, found {found}"))
    return checks


def _name(thing: Thing | None) -> str:
    return "nothing" if thing is None else thing_phrase(thing)


def _ancestor(source: Scene, target: Scene, place: int) -> Thing | None:
    """What a thing of the target was in the source: itself, wherever it was, or what was edited in its place."""
    thing, before = target.cells[place], source.cells[place]
    if thing is None or thing in source.cells:
        return thing
    return before if type(before) is type(thing) else None


def _subject(sample: Sample, reading: Reading) -> float | None:
    """The share of attributes that things keep from the source and that the output shows; None when nothing stays."""
    source, target = sample.source_scene, sample.target_scene
    if source is None:
        return None
    held = []
    for place in target.occupied:
        thing, before = target.cells[place], _ancestor(source, target, place)
        if thing is not None and before is not None:
            names = [n for n in ATTRIBUTES[type(thing)] if getattr(before, n) == getattr(thing, n)]
            held += [reading.shows_attribute(place, thing, name) for name in names]
    return sum(held) / len(held) if held else None


def _face(sample: Sample, reading: Reading) -> float | None:
    """The share of the face's identity (skin, hair unless it is the edit) that the output shows."""
    source, target = sample.source_scene, sample.target_scene
    if source is None or source.face is None or target.face is None:
        return None
    before, after = source.cells[source.face], target.cells[target.face]
    assert isinstance(after, Face)
    names = [name for name in _FACE_IDENTITY if getattr(before, name) == getattr(after, name)]
    return sum(reading.shows_attribute(target.face, after, name) for name in names) / len(names)


def _style(target: Scene, reading: Reading) -> float:
    return (reading.has_style(target.style) + reading.has_light(target.light)) / 2
