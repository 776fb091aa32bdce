"""Samples: pure, fast, unambiguous, honest about what is held out."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tagmoe.errors import UsageError
from tagmoe.tags import TAG_NAMES
from tagmoe.world import (
    TASKS,
    Background,
    Content,
    Face,
    Item,
    Sample,
    Scene,
    content,
    render,
    sample,
    slot_values,
    words,
)
from tagmoe.world.scene import PLACES
from tagmoe.world.templates import TEMPLATES

SPLITS = ("train", "test")


def cases(count: int, split: str = "train", seed: int = 11) -> list[Sample]:
    return [sample(seed, i, split=split, task=task) for task in TASKS for i in range(count)]  # type: ignore[arg-type]


@cache
def content_of(task: str, i: int, split: str) -> Content:
    return content(11, i, split=split, task=task)  # type: ignore[arg-type]


def contents(count: int, split: str = "train") -> list[Content]:
    """What `cases` show and say, without their pictures, in a third of the time."""
    return [content_of(task, i, split) for task in TASKS for i in range(count)]


def same(a: Sample, b: Sample) -> bool:
    pictures = zip((*a.sources, a.target, a.mask), (*b.sources, b.target, b.mask), strict=True)
    facts = [(s.task, s.instruction, s.tags, s.source_scene, s.target_scene, s.slots) for s in (a, b)]
    return facts[0] == facts[1] and all(np.array_equal(x, y) for x, y in pictures)


def test_a_sample_is_a_pure_function_of_its_key() -> None:
    first = [sample(3, i) for i in range(60)]
    again = [sample(3, i) for i in reversed(range(60))][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    others = [(sample(4, i), sample(3, i + 60), sample(3, i, split="test")) for i in range(60)]
    assert sum(same(a, b) for a, row in zip(first, others, strict=True) for b in row) <= 1


def test_another_process_draws_the_same_and_needs_no_torch() -> None:
    code = (
        "import sys, zlib; from tagmoe.world import sample; s = [sample(5, i) for i in range(40)];"
        "print(zlib.crc32(b''.join(x.target.tobytes() + x.instruction.encode() for x in s)), 'torch' in sys.modules)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    here = zlib.crc32(b"".join(x.target.tobytes() + x.instruction.encode() for x in (sample(5, i) for i in range(40))))
    assert there.split() == [str(here), "False"]


def test_pictures_and_masks_have_the_promised_form() -> None:
    for case in cases(4) + cases(4, "test"):
        for picture in (*case.sources, case.target):
            assert picture.shape == (64, 64, 3)
            assert picture.dtype == np.uint8
        assert case.mask.shape == (64, 64)
        assert case.mask.dtype == bool
        assert case.mask.any()
        assert len(case.sources) == (case.task != "generate")
        if case.source_scene is not None:
            assert np.array_equal(case.sources[0], render(case.source_scene))
            assert not np.array_equal(case.sources[0], case.target)
            if case.task not in ("subject", "style_ref"):
                assert np.array_equal(case.sources[0][~case.mask], case.target[~case.mask])


@pytest.mark.parametrize("count", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_train_never_shows_a_held_out_combination_and_test_often_does(count: int) -> None:
    train = [sample(1, i) for i in range(count)]
    test = [sample(1, i, split="test") for i in range(count)]
    for case in train:
        assert not case.held_out_combination
        assert not case.held_out_paraphrase
        assert not case.target_scene.has_held_out()
        assert case.source_scene is None or not case.source_scene.has_held_out()
    assert 0.2 < np.mean([case.held_out_combination for case in test]) < 0.4
    assert 0.45 < np.mean([case.held_out_paraphrase for case in test]) < 0.55
    assert {case.task for case in train} == {case.task for case in test} == set(TASKS)
    shown = [case.source_scene or case.target_scene for case in train]
    assert 0.7 < np.mean([scene.style == "flat" and scene.light == "day" for scene in shown]) < 0.9


def test_a_training_mix_uses_all_18_tags_and_every_descriptor_is_valid() -> None:
    used: set[str] = set()
    for case in contents(16) + contents(8, "test"):
        tags = TASKS[case.task].tags(case.edit)
        tags.validate()
        used.update(tags.tags)
        faces = [s is not None and s.face is not None for s in (case.edit.source, case.edit.target)]
        if "face preservation" in tags.preservation:
            assert all(faces)
    assert used == set(TAG_NAMES)


def test_instructions_are_short_lower_case_and_from_the_closed_vocabulary() -> None:
    known, values = words(), slot_values()
    assert len(known) < 200
    seen: set[str] = set()
    for case in [*contents(30), *contents(30, "test")]:
        said = case.instruction.replace(",", "").split()
        captioned = case.task in ("generate", "style_ref", "structure", "subject")
        assert len(said) <= (22 if captioned else 18), case.instruction
        assert set(said) <= known, case.instruction
        assert all(value in values[key] for key, value in case.edit.slots.items()), case.edit.slots
        seen.update(said)
    assert known - seen == set()


def test_held_out_paraphrases_are_new_but_use_only_words_seen_in_training() -> None:
    trained = {word for i in range(2500) for word in content(2, i).instruction.replace(",", "").split()}
    assert words() == trained
    for group in TEMPLATES.values():
        assert len(group.train) >= 5
        assert len(group.held_out) == 2
        assert not set(group.train) & set(group.held_out)
    everywhere = [t for group in TEMPLATES.values() for t in (*group.train, *group.held_out)]
    assert len(everywhere) == len(set(everywhere)), "two tasks share an instruction, so that neither is unambiguous"


def thing_from(slots: dict[str, str], key: str) -> Item | Face | None:
    facts = {k.split(".")[1]: v for k, v in slots.items() if k.startswith(f"{key}.")}
    if facts.get("kind") == "person":
        return Face(facts["skin"], facts["hair"], "glasses" in facts, facts.get("hat"), facts["expression"])
    if "shape" not in facts:
        return None
    return Item(facts["shape"], facts["colour"], facts.get("texture", "plain"), facts.get("size", "large"))


def find(scene: Scene, slots: dict[str, str], key: str = "ref") -> int:
    facts = {k.split(".")[1]: v for k, v in slots.items() if k.startswith(f"{key}.")}
    kind = facts.pop("kind", "thing")
    place = facts.pop("place", None)
    found = [
        i
        for i in scene.occupied
        if (i == scene.face) == (kind == "person")
        and place in (None, PLACES[i])
        and all(getattr(scene.cells[i], name) == value for name, value in facts.items())
    ]
    assert len(found) == 1, "a reference must single out one thing"
    return found[0]


def group(scene: Scene, slots: dict[str, str]) -> list[int]:
    if "group.kind" in slots:
        return list(scene.items)
    name = "shape" if "group.shape" in slots else "colour"
    return [i for i in scene.items if getattr(scene.cells[i], name) == slots[f"group.{name}"]]


def described(slots: dict[str, str], style: str) -> Scene:
    """The scene that a caption describes: what it leaves out is plain, large, white, flat, by day."""
    ground = Background(slots.get("background.colour", "white"), slots.get("background.pattern", "plain"))
    scene = Scene((None, None, None, None), ground, style, slots.get("light", "day"))
    placed = [(PLACES.index(slots[f"{k}.place"]), thing_from(slots, k)) for k in "abc" if f"{k}.place" in slots]
    return scene.put(*placed)


def follow(case: Content) -> Scene:
    """Carry out an instruction from the facts it states and the source alone: the specification of the tasks."""
    slots, source = case.edit.slots, case.edit.source
    if case.task == "generate":
        return described(slots, slots.get("style", "flat"))
    assert source is not None
    if case.task == "style_ref":
        return described(slots, source.style)
    if case.task == "subject":
        return described(slots, "flat").put((PLACES.index(slots["new.place"]), source.cells[source.occupied[0]]))
    ground = Background(
        slots.get("background.colour", source.background.colour),
        slots.get("background.pattern", source.background.pattern),
    )
    scene = replace(
        source, background=ground, style=slots.get("style", source.style), light=slots.get("light", source.light)
    )
    new = {k.split(".")[1]: v for k, v in slots.items() if k.startswith("new.")}
    if case.task == "viewpoint":
        a, b, c, d = source.cells
        return replace(scene, cells=(b, a, d, c))
    if case.task in ("expression", "wear", "hair", "take_off"):
        change: dict[str, object] = {k: (v if k != "glasses" else True) for k, v in new.items()}
        change |= {"sunglasses": {"glasses": False}, "hat": {"hat": None}}.get(slots.get("old.clothes", ""), {})
        assert source.face is not None
        return scene.put((source.face, replace(source.cells[source.face], **change)))  # type: ignore[arg-type]
    if case.task == "add":
        return scene.put((PLACES.index(new["place"]), thing_from(slots, "new")))
    if case.task.startswith("multi"):
        places = group(scene, slots)
        assert len(places) >= 2
        return scene.put(*((i, replace(scene.cells[i], **new) if new else None) for i in places))  # type: ignore
    if not any(key.startswith("ref.") for key in slots):
        return scene
    place = find(source, slots)
    if case.task == "remove":
        return scene.put((place, None))
    if case.task == "swap":
        other = find(source, slots, "ref2")
        return scene.put((place, source.cells[other]), (other, source.cells[place]))
    if case.task == "move":
        return scene.put((place, None), (PLACES.index(new["place"]), source.cells[place]))
    return scene.put((place, replace(source.cells[place], **new)))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "structure"])
def test_the_target_follows_from_source_and_stated_facts(task: str) -> None:
    for split in SPLITS:
        for i in range(20):
            case = content(21, i, split=split, task=task)  # type: ignore[arg-type]
            assert follow(case) == case.edit.target, case.instruction


def test_every_stated_value_is_in_the_words_of_the_instruction() -> None:
    unspoken = ("task", "kind", "style", "light", "group.shape", "old.clothes")
    for case in contents(6) + contents(6, "test"):
        for key, value in case.edit.slots.items():
            if not key.endswith(unspoken):
                spoken = "small" in case.instruction or "shrink" in case.instruction
                spoken = spoken or "large" in case.instruction or "grow" in case.instruction
                assert value in case.instruction or (key == "new.size" and spoken), (case.instruction, case.edit.slots)


def test_a_structure_map_is_black_and_white_and_names_each_shape_once() -> None:
    for i in range(40):
        case = sample(8, i, task="structure")
        shapes = [thing.shape for thing in case.target_scene.cells if isinstance(thing, Item)]
        assert len(shapes) == len(set(shapes))
        assert all(shape in case.instruction for shape in shapes)
        assert (np.ptp(case.sources[0].astype(int), axis=2) == 0).all()


def test_task_may_be_one_or_several_and_unknown_ones_are_refused() -> None:
    assert {content(0, i, task=("add", "remove")).task for i in range(30)} == {"add", "remove"}
    with pytest.raises(UsageError, match="recolor"):
        sample(0, 0, task="recolor")
    with pytest.raises(UsageError, match="validation"):
        sample(0, 0, split="validation")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="-1"):
        sample(0, -1)
    with pytest.raises(UsageError):
        sample(0, 0, task=())


def test_at_least_a_thousand_samples_a_second() -> None:
    for i in range(100):
        sample(31, i)
    start = time.process_time()
    for i in range(200):
        sample(32, i)
    assert 200 / (time.process_time() - start) > 1000
