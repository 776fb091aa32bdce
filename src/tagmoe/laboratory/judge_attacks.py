"""Attacks on TagWorld's judge: outputs of 33 kinds, each classed for a person as right, wrong or partial.

The classes are frozen in `judge_attacks.yaml`, with a reason where they are a matter of taste. An attack does not apply
to a case where a person would not see it, or where its scene has no room for it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tagmoe.files.yaml_text import read_yaml
from tagmoe.pictures import load_image
from tagmoe.world import TASKS, Background, Face, Item, Sample, Scene, render, sample
from tagmoe.world.scene import COLOURS, PATTERNS, SHAPES

_FILE = Path(__file__).with_name("judge_attacks.yaml")
CLASSES: Mapping[str, str] = {
    name: str(entry["class"]) for name, entry in read_yaml(_FILE.read_text(encoding="utf-8"), _FILE.name).items()
}
"""The class of each kind: "right", "wrong" or "partial"."""
RESTORED = "restored"
"""The kind that needs an autoencoder."""
_VISIBLE = 12.0
"""A mean difference, in grey levels, of a square of 3x3 pixels: less is nothing that a person sees."""
Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Attack:
    """One output of a kind for a case: (64, 64, 3) uint8."""

    kind: str
    case: Sample
    image: np.ndarray


def attacks(
    case: Sample, rng: np.random.Generator, restore: Restore | None = None, kinds: Collection[str] = tuple(CLASSES)
) -> list[Attack]:
    """All attacks of these kinds that apply to a case.

    restore: an autoencoder's (64, 64, 3) -> (64, 64, 3), for "restored", which is left out without it.
    """
    made = {kind: make(case, rng) for kind, make in _KINDS.items() if kind in kinds}
    if restore is not None and RESTORED in kinds:
        made[RESTORED] = restore(case.target)
    found = []
    for kind, image in made.items():
        if image is None or (CLASSES[kind] != "right" and not visible(image, case.target)):
            continue
        found.append(Attack(kind, case, np.ascontiguousarray(image)))
    return found


def drawn(count: int, seed: int, restore: Restore | None = None, *, least: int = 0, most: int = 0) -> Iterator[Attack]:
    """All attacks on `count` cases, then further ones of the kinds that seldom apply.

    The further cases go through the tasks as the first ones do. They are attacked by the kinds that have fewer than
    `least` outputs, until there are none of these, or until `most` cases were drawn in all.
    """
    rng = np.random.default_rng(seed)
    outputs = {kind: 0 for kind in CLASSES if restore is not None or kind != RESTORED}
    for number in range(max(count, most)):
        kinds = [kind for kind, made in outputs.items() if number < count or made < least]
        if not kinds:
            return
        for attack in attacks(_case(number, seed), rng, restore, kinds):
            outputs[attack.kind] += 1
            yield attack


def visible(image: np.ndarray, target: np.ndarray) -> bool:
    """Whether a person sees that a picture is not the target."""
    difference = image.astype(np.float32) - target
    windows = np.lib.stride_tricks.sliding_window_view(difference, (3, 3), axis=(0, 1)).mean(axis=(-1, -2))
    return bool(np.abs(windows).max() >= _VISIBLE)


def cases(count: int, seed: int) -> list[Sample]:
    """`count` test cases that go through the tasks in turn."""
    return [_case(number, seed) for number in range(count)]


def _case(number: int, seed: int) -> Sample:
    return sample(seed, number, split="test", task=tuple(TASKS)[number % len(TASKS)])


# Kinds ----------------------------------------------------------------------------------------------------------


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _source(case: Sample) -> np.ndarray | None:
    """The picture that the edit starts from; None where the target is another picture altogether."""
    return case.sources[0] if case.sources and case.is_edit else None


def _moved(case: Sample, rng: np.random.Generator) -> np.ndarray:
    y, x = ((1, 0), (-1, 0), (0, 1), (0, -1))[rng.integers(4)]
    padded = np.pad(case.target, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[1 + y : 65 + y, 1 + x : 65 + x]


def _jpeg(quality: int) -> Callable[[Sample, Any], np.ndarray]:
    def make(case: Sample, _: Any) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(case.target).save(buffer, "JPEG", quality=quality)
        return np.asarray(load_image(buffer.getvalue()))

    return make


def _noise(deviation: float) -> Callable[[Sample, np.random.Generator], np.ndarray]:
    return lambda case, rng: _bytes(case.target + rng.normal(0, deviation, case.target.shape))


def _blur(radius: float) -> Callable[[Sample, Any], np.ndarray]:
    return lambda case, _: np.asarray(Image.fromarray(case.target).filter(ImageFilter.GaussianBlur(radius)))


def _blend(share: float) -> Callable[[Sample, Any], np.ndarray | None]:
    def make(case: Sample, _: Any) -> np.ndarray | None:
        source = _source(case)
        return None if source is None else _bytes(share * case.target.astype(float) + (1 - share) * source)

    return make


def _other_target(case: Sample, rng: np.random.Generator) -> np.ndarray:
    return sample(case.seed, int(rng.integers(10**6, 2 * 10**6)), split="test", task=case.task).target


def _missing(case: Sample, rng: np.random.Generator) -> np.ndarray | None:
    """A band of 30 % of the changed rows, or columns, is as in the source."""
    source = _source(case)
    if source is None:
        return None
    axis = int(rng.integers(2))
    lines = np.flatnonzero((case.target != source).any(axis=(2, 1 - axis)))
    band = lines[: max(1, round(0.3 * len(lines)))] if rng.random() < 0.5 else lines[-max(1, round(0.3 * len(lines))) :]
    image = case.target.copy()
    at = (band, slice(None)) if axis == 0 else (slice(None), band)
    image[at] = source[at]
    return image


def _spot(case: Sample, rng: np.random.Generator) -> np.ndarray:
    image = case.target.copy()
    y, x = rng.integers(0, 59, 2)
    image[y : y + 5, x : x + 5] = (255, 0, 255)
    return image


def _scene(change: Callable[[Scene, Sample, np.random.Generator], Scene | None]) -> Any:
    def make(case: Sample, rng: np.random.Generator) -> np.ndarray | None:
        scene = change(case.target_scene, case, rng)
        return None if scene is None or scene == case.target_scene else render(scene)

    return make


def _half(change: Callable[[Scene, Sample, np.random.Generator], Scene | None]) -> Any:
    def make(case: Sample, rng: np.random.Generator) -> np.ndarray | None:
        scene = change(case.target_scene, case, rng)
        if scene is None or scene == case.target_scene:
            return None
        return _bytes(0.5 * case.target.astype(float) + 0.5 * render(scene))

    return make


def _any_item(rng: np.random.Generator) -> Item:
    return Item(SHAPES[rng.integers(6)], COLOURS[rng.integers(6)], ("plain", "striped", "dotted")[rng.integers(3)])


def _extra(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    return scene.put((int(rng.choice(scene.empty)), _any_item(rng))) if scene.empty else None


def _unedited(scene: Scene, case: Sample) -> list[int]:
    """Places of things that the edit leaves as they are; of all things where the picture is new."""
    before = case.source_scene if _source(case) is not None else None
    return [i for i in scene.occupied if before is None or before.cells[i] == scene.cells[i]]


def _other_removed(scene: Scene, case: Sample, rng: np.random.Generator) -> Scene | None:
    places = _unedited(scene, case)
    return scene.put((int(rng.choice(places)), None)) if places else None


def _other_recoloured(scene: Scene, case: Sample, rng: np.random.Generator) -> Scene | None:
    """The edit, and another thing in another colour too."""
    places = [i for i in _unedited(scene, case) if isinstance(scene.cells[i], Item)]
    if not places:
        return None
    place = int(rng.choice(places))
    return scene.put((place, _recoloured(scene.cells[place], rng)))


def _recoloured(thing: Any, rng: np.random.Generator) -> Item:
    others = [colour for colour in COLOURS if colour != thing.colour]
    return replace(thing, colour=others[rng.integers(5)])


def _wrong_thing(scene: Scene, case: Sample, rng: np.random.Generator) -> Scene | None:
    """The edited thing is as it was, and another one took its edit: a colour, or its going."""
    before = case.source_scene
    if before is None or _source(case) is None:
        return None
    edited = [i for i in before.occupied if before.cells[i] != scene.cells[i]]
    others = [i for i in before.items if before.cells[i] == scene.cells[i]]
    if not edited or not others:
        return None
    place, other = edited[0], int(rng.choice(others))
    new, old = scene.cells[place], before.cells[other]
    if new is None:
        return before.put((other, None))
    if isinstance(new, Item) and isinstance(old, Item):
        return before.put((other, replace(old, colour=new.colour, texture=new.texture, size=new.size)))
    return None


def _wrong_part(scene: Scene, case: Sample, _: np.random.Generator) -> Scene | None:
    """The new colour lies on the background, not on the thing."""
    before, on = case.source_scene, {"red": "pink", "green": "mint", "blue": "sky blue", "yellow": "sand"}
    if case.task not in ("recolour", "hair", "multi_recolour") or before is None:
        return None
    changed = [i for i in scene.items if before.cells[i] != scene.cells[i]]
    ground = on.get(scene.cells[changed[0]].colour, "grey") if changed else "grey"  # type: ignore[union-attr]
    return (
        None
        if ground == before.background.colour
        else replace(before, background=replace(before.background, colour=ground))
    )


def _duplicate(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    if not scene.empty or not scene.items:
        return None
    return scene.put((int(rng.choice(scene.empty)), scene.cells[int(rng.choice(scene.items))]))


def _other_shape(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    if not scene.items:
        return None
    place = int(rng.choice(scene.items))
    thing: Any = scene.cells[place]
    shapes = [shape for shape in SHAPES if shape != thing.shape]
    return scene.put((place, replace(thing, shape=shapes[rng.integers(5)])))


def _other_colour(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    if not scene.items:
        return None
    place = int(rng.choice(scene.items))
    return scene.put((place, _recoloured(scene.cells[place], rng)))


def _pattern(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene:
    others = [pattern for pattern in PATTERNS if pattern != scene.background.pattern]
    return replace(scene, background=Background(scene.background.colour, others[rng.integers(2)]))


def _ground(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene:
    others = [c for c in ("white", "grey", "sky blue", "sand", "mint", "pink") if c != scene.background.colour]
    return replace(scene, background=replace(scene.background, colour=others[rng.integers(5)]))


def _night(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    lights = [light for light in ("night", "sunset", "fog") if light != scene.light]
    return replace(scene, light=lights[rng.integers(len(lights))]) if scene.style == "flat" else None


def _other_face(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    """Another person: another skin and other hair."""
    if scene.face is None:
        return None
    face = scene.cells[scene.face]
    assert isinstance(face, Face)
    skins = [skin for skin in ("light", "tan", "dark") if skin != face.skin]
    return scene.put((scene.face, replace(face, skin=skins[rng.integers(2)])))


def _moved_thing(scene: Scene, _: Sample, rng: np.random.Generator) -> Scene | None:
    """A thing at another place."""
    if not scene.empty or not scene.occupied:
        return None
    old, new = int(rng.choice(scene.occupied)), int(rng.choice(scene.empty))
    return scene.put((old, None), (new, scene.cells[old]))


_KINDS: dict[str, Callable[[Sample, np.random.Generator], np.ndarray | None]] = {
    "target": lambda case, _: case.target,
    "moved by one pixel": _moved,
    "JPEG at 85": _jpeg(85),
    "weak noise": _noise(4.0),
    "weak blur": _blur(0.6),
    "JPEG at 30": _jpeg(30),
    "copy of the source": lambda case, _: case.sources[0] if case.sources else None,
    "black": lambda case, _: np.zeros_like(case.target),
    "another case's target": _other_target,
    "an extra object": _scene(_extra),
    "another background pattern": _scene(_pattern),
    "another background colour": _scene(_ground),
    "another light": _scene(_night),
    "another thing removed": _scene(_other_removed),
    "another thing recoloured": _scene(_other_recoloured),
    "another person": _scene(_other_face),
    "a thing at another place": _scene(_moved_thing),
    "half a ghost of another shape": _half(_other_shape),
    "half a ghost of another colour": _half(_other_colour),
    "half a ghost of an extra object": _half(_extra),
    "half a ghost of another light": _half(_night),
    "30 % of the change missing": _missing,
    "a magenta block of 5x5": _spot,
    "blend with 25 % of the target": _blend(0.25),
    "blend with 50 % of the target": _blend(0.5),
    "blend with 75 % of the target": _blend(0.75),
    "the wrong thing edited": _scene(_wrong_thing),
    "the colour on the wrong part": _scene(_wrong_part),
    "a duplicate": _scene(_duplicate),
    "mirrored": lambda case, _: case.target[:, ::-1],
    "upside down": lambda case, _: case.target[::-1],
    "strong noise": _noise(50.0),
    "blur that hides the edit": _blur(6.0),
}
