"""Judge an edit: was the instruction carried out, and is the rest as it was? The metrics of paper 4.2, on TagWorld.

Success is strict: the edit is done, and nothing is damaged (`tagmoe.world.damage`); the picture is the target, but for
what a person forgives. `edit_done` is the score that was published before: the edit is done, and most of the rest is
still there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .damage import aligned, damage
from .instructions import background_phrase, thing_phrase
from .oracle import ATTRIBUTES, CLEAN, CLEAN_OF_STYLE, Reading, pixels, read, split_cells
from .render import render, render_cell
from .sample import Sample
from .scene import PLACES, Face, Scene, Thing

# The least share of the way from the source's pixels to the target's that an edited cell must have gone. A half-done
# edit reaches 0.5. True targets that a lossy autoencoder restored nearly always go further (docs/log.md).
_CARRIED_OUT = 0.55
_FACE_IDENTITY = ("skin", "hair")


@dataclass(frozen=True)
class Verdict:
    """What the pixels say about one output.

    success: the edit is done whole, and all the rest is as it was.
    edit_done: all that the instruction asks for holds, no edit is half done, and the rest of the scene is still there,
    though perhaps not as it was.
    unchanged: share of scene elements outside the edit that are as in the source (1 where there is none).
    subject, face, style: the share preserved; None where the case's tags do not ask for it.
    reasons: what does not hold, in words.
    """

    success: bool
    edit_done: bool
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
    source, target = _source(sample), sample.target_scene
    reading = read(image)
    checks = _checks(source, target, reading)
    rest = [check.holds for check in checks if not check.edited]
    kept = sample.tags.preservation
    reasons = [check.reason for check in checks if not check.holds]
    half_done = _half_done(source, target, reading, split_cells(image))
    scene_left = _scene_left(checks, target)
    edit_done = scene_left and not half_done and all(check.holds for check in _asked(checks))
    reasons += [f"{PLACES[place]}: the edit is half done or blurred" for place in half_done]
    if not scene_left:
        reasons.insert(0, "too little of the scene is left")
    damages = damage(target, source, image)
    return Verdict(
        success=not damages and (edit_done or _is_done_elsewhere(source, target, image)),
        edit_done=edit_done,
        unchanged=sum(rest) / len(rest) if rest else 1.0,
        subject=_subject(sample, reading) if "identity preservation" in kept else None,
        face=_face(sample, reading) if "face preservation" in kept else None,
        style=_style(sample.target_scene, reading) if "style preservation" in kept else None,
        reasons=tuple(dict.fromkeys([*reasons, *damages])),
    )


def _is_done_elsewhere(source: Scene | None, target: Scene, image: np.ndarray | Image.Image) -> bool:
    """Whether the edit is done in a picture that lies one pixel beside the target."""
    picture = pixels(image)
    moved = aligned(picture, render(target))
    if moved is picture:
        return False
    reading = read(moved)
    checks = _checks(source, target, reading)
    done = not _half_done(source, target, reading, split_cells(moved)) and all(c.holds for c in _asked(checks))
    return done and _scene_left(checks, target)


def _source(sample: Sample) -> Scene | None:
    """The scene that the edit starts from; None where the whole picture is new."""
    return sample.source_scene if sample.is_edit else None


def _half_done(source: Scene | None, target: Scene, reading: Reading, cells: np.ndarray) -> list[int]:
    """Places of edited cells that read as the target, but whose edit is half done or blurred."""
    limit = CLEAN_OF_STYLE.get(target.style, CLEAN)
    places = []
    for place, thing in enumerate(target.cells):
        if not reading.shows(place, thing):
            continue
        wanted = render_cell(thing, target.background, target.style, target.light).astype(np.float32)
        way = np.float32(1.0)
        if source is not None:
            before = render_cell(source.cells[place], source.background, source.style, source.light)
            step = wanted - before
            if not step.any():
                continue
            way = ((cells[place] - before) * step).sum() / np.square(step).sum()
        if way < _CARRIED_OUT or reading.errors[place] > limit:
            places.append(place)
    return places


def _asked(checks: list[_Check]) -> list[_Check]:
    """The checks that must hold for success. Style and light exclude each other, so an edit of one decides on both."""
    look = checks[-2:] if any(check.edited for check in checks[-2:]) else []
    return [check for check in checks if check.edited] + look


def _scene_left(checks: list[_Check], target: Scene) -> bool:
    """Whether the picture still shows the scene: at least half of its things outside the edit.

    If the edit leaves no such thing, the background's colour must hold. If the target has no thing at all, the whole
    background, style and light must hold, because any blank picture shows no things.
    """
    outside = [checks[place].holds for place in target.occupied if not checks[place].edited]
    if outside:
        return 2 * sum(outside) >= len(outside)
    setting = checks[len(PLACES) :]
    return all(check.holds for check in (setting[:1] if target.occupied else setting) if not check.edited)


def _checks(source: Scene | None, target: Scene, reading: Reading) -> list[_Check]:
    """One check per place, in the order of PLACES, then the background's colour and pattern, style and light."""
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
    """What a thing of the target was in the source: the same thing at any place, or the thing edited at this place."""
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
