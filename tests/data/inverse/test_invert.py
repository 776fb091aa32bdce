"""Inverses follow their rules, say what the pictures show, and are made once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.made_pictures import picture, scene, sound
from support.stored_content import content_hash

from tagmoe.data.check.checks import examine
from tagmoe.data.check.validate import QUARANTINE, validate
from tagmoe.data.inverse import invert as inverting
from tagmoe.data.inverse.invert import Rules, inverse_id, invert
from tagmoe.data.store.record import PARTIAL, Picture, Record, TagProvenance, record_id, to_row
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError
from tagmoe.world import TASKS, judge, rule_tags, sample

ALL = Rules(share=0.5)


def stored(path, records, *, sizes=(3,)) -> Store:
    store = Store.create(path)
    records = list(records)
    with store.writing():
        for start in range(0, len(records), sizes[0]):
            store.append(records[start : start + sizes[0]])
    return store


def children(store: Store) -> dict[str, Record]:
    return {record.parent: record for record in store.records(range(len(store))) if record.operation == "inverse"}


def given(number: int, **changes) -> Record:
    return sound(number, tag_provenance=TagProvenance("person"), **changes)


@cache
def case(task: str, number: int):
    return sample(11, number, task=task)


def of_tagworld(task: str, number: int) -> Record:
    drawn = case(task, number)
    role = "reference" if task in ("subject", "style_ref", "structure") else "source"
    images = [picture(pixels, role, "PNG") for pixels in drawn.sources]
    if images:
        images.append(picture(Image.fromarray(drawn.mask.astype(np.uint8) * 255), "mask", "PNG"))
    return Record(
        id=record_id("tagworld", f"{task}-{number}"),
        dataset="tagworld",
        images=tuple(images),
        target=picture(drawn.target, kind="PNG"),
        instruction=drawn.instruction,
        licence="Apache-2.0",
        native_task=task,
        tags=drawn.tags.indices,
        tag_provenance=TagProvenance("oracle"),
    )


def test_an_inverse_is_its_parent_the_other_way_round(tmp_path):
    mask = picture(Image.new("L", (128, 128), 255), "mask", "PNG")
    parent = given(1, caption_source="a field", caption_target="a field with a balloon", quality={"o_score": 8.0})
    parent = replace(parent, images=(*parent.images, mask), instructions=("Make it nice.", "Add a balloon."))
    store = stored(tmp_path / "s", [parent])
    outcome = invert(store, ALL)
    assert outcome.made == {"addition -> remove": 1}
    (child,) = children(Store.open(tmp_path / "s")).values()
    assert child.images == (parent.target, mask)
    assert child.target == parent.images[0]
    assert child.instruction == "Remove the red balloon from the sky."
    assert child.instructions == ("Remove the balloon.",)
    assert (child.id, child.parent) == (record_id("made", parent.id, "", "inverse"), parent.id)
    assert (child.root, child.split, child.licence, child.origin) == (
        parent.root,
        parent.split,
        parent.licence,
        parent.origin,
    )
    assert (child.caption_source, child.caption_target) == ("a field with a balloon", "a field")
    assert (child.native_task, child.quality) == ("remove", {})
    # Scope and type, without the preservation that is to be judged again.
    assert child.tags == (0, 6)
    assert child.tag_provenance == TagProvenance("person", status=PARTIAL)
    assert examine(to_row(child)) == []


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"native_task": ""}, "waiting", inverting.UNKNOWN),
        ({"native_task": "made up"}, "waiting", inverting.UNKNOWN),
        ({"instruction": "Add fog."}, "waiting", "add: what was added is not certain from the words"),
        (
            {"native_task": "style", "caption_source": "an oil painting"},
            "waiting",
            "style: the source is no photograph",
        ),
        *(({"native_task": edit}, "waiting", reason) for edit, reason in inverting.WAITING.items()),
        *(({"native_task": edit}, "refused", reason) for edit, reason in inverting.NEVER.items()),
        ({"native_task": "depth_to_image"}, "refused", "control map: only with --maps"),
        ({"licence": "CC-BY-NC-ND-4.0"}, "refused", "the licence allows no derivatives"),
        ({"operation": "inverse", "parent": "0" * 32}, "refused", "an inverse itself"),
        ({"images": ()}, "refused", inverting.PICTURES),
    ],
)
def test_what_gets_no_inverse_is_counted_by_reason(tmp_path, changes, kind, reason):
    store = stored(tmp_path / "s", [given(1, **changes)])
    outcome = invert(store, ALL)
    assert getattr(outcome, kind) == {reason: 1}
    assert (outcome.made.total(), len(store)) == (0, 1)


def test_a_record_with_a_reference_beside_its_source_has_no_inverse(tmp_path):
    parent = given(1)
    parent = replace(parent, images=(*parent.images, picture(scene(seed=9), "reference")))
    assert invert(stored(tmp_path / "s", [parent]), ALL).refused == {inverting.PICTURES: 1}


def test_every_task_has_a_way():
    edits = set(inverting.NEVER) | set(inverting.WAITING) | {"add", "style", "control map"}
    assert edits == set(inverting.__dict__["Edit"].__args__)


def test_maps_only_where_asked_for_and_without_tags(tmp_path):
    parent = given(1, native_task="depth_to_image", tags=(12, 17))
    parent = replace(parent, images=(replace(parent.images[0], role="reference"),))
    store = stored(tmp_path / "s", [parent])
    assert invert(store, Rules(share=0.5, maps=True)).made == {"depth_to_image -> depth map": 1}
    (child,) = children(store).values()
    assert child.images == (parent.target,)
    assert (child.target.data, child.tags, child.tag_provenance) == (parent.images[0].data, None, None)
    assert child.instruction == "Draw the depth map of this picture."


def test_tags_that_are_not_sound_are_not_carried_over(tmp_path):
    bad = sound(1, tag_provenance=TagProvenance("model", status="invalid"))
    store = stored(tmp_path / "s", [bad, sound(2, tags=None)])
    invert(store, ALL)
    assert [(child.tags, child.tag_provenance) for child in children(store).values()] == [(None, None)] * 2


def test_the_quality_cut(tmp_path):
    scores = [{"o_score": 7.0}, {"o_score": 6.9}, {}, {"clip": 0.9}, {"clip": 0.1, "o_score": 9.0}, {"other": 9.0}]
    store = stored(tmp_path / "s", [given(number, quality=quality) for number, quality in enumerate(scores)])
    outcome = invert(store, Rules({"o_score": 7.0, "clip": 0.5}, 0.5))
    assert set(children(store)) == {given(0).id, given(3).id}
    assert outcome.refused == {"quality below the cut": 2, "no quality score of these names": 2}


def test_quarantined_records_are_not_inverted(tmp_path):
    whole = scene(150, 150, 3)
    shifted = given(1, images=(picture(whole[6:134, 6:134]),), target=picture(whole[2:130, 2:130]))
    store = stored(tmp_path / "s", [shifted, given(2)])
    validate(store)
    outcome = invert(store, ALL)
    assert (outcome.refused, outcome.unchecked) == ({"in quarantine": 1}, 0)
    assert list(children(store)) == [given(2).id]
    # New records are unchecked until they are.
    assert store.unfilled(QUARANTINE.name)
    assert invert(stored(tmp_path / "t", [given(2)]), ALL).unchecked == 1


def test_one_inverse_a_parent_and_none_of_an_inverse(tmp_path):
    store = stored(tmp_path / "s", [given(number) for number in range(5)] + [given(3)])
    assert invert(store, ALL).made.total() == 5
    before = content_hash(store)
    again = invert(store, ALL)
    assert (again.made.total(), again.already, again.refused["an inverse itself"]) == (0, 6, 5)
    assert content_hash(store) == before


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4])
def test_the_share_is_a_cap_for_each_task(tmp_path, share):
    records = [given(number, native_task="add" if number % 3 else "style") for number in range(60)]
    store = stored(tmp_path / "s", records, sizes=(20,))
    outcome = invert(store, Rules(share=share))
    made = Counter(child.native_task for child in children(store).values())
    assert made["remove"] <= share * (40 + made["remove"])
    assert made["style"] <= share * (20 + made["style"])
    assert made["remove"] >= share / (1 - share) * 40 * 0.2
    assert outcome.made.total() + outcome.refused[inverting.OVER_SHARE] == 60
    # A larger share goes on from there, a smaller one takes nothing away.
    more = invert(store, ALL)
    assert more.already == made.total()
    assert invert(store, Rules(share=share)).made.total() == 0


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path):
    records = [given(number, **({} if number % 2 else {"native_task": "removal"})) for number in range(20)]
    store = stored(tmp_path / "s", records)
    version = store.version
    planned = invert(store, Rules(), dry_run=True)
    assert Store.open(tmp_path / "s").version == version
    assert invert(store, Rules()) == planned
    assert planned.made


TAGWORLD_MADE = {
    "add": "remove",
    "remove": "add",
    "replace": "replace",
    "recolour": "recolour",
    "retexture": "retexture",
    "resize": "resize",
    "move": "move",
    "swap": "swap",
    "expression": "expression",
    "wear": "take_off",
    "take_off": "wear",
    "hair": "hair",
    "background": "background",
    "pattern": "pattern",
    "style": "destyle",
    "destyle": "style",
    "light": "relight",
    "relight": "light",
    "viewpoint": "viewpoint",
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("task", TASKS)
def test_inverses_of_tagworld_are_right_by_its_own_judge(tmp_path, task):
    numbers = range(12)
    parents = {of_tagworld(task, number).id: number for number in numbers}
    store = stored(tmp_path / "s", [of_tagworld(task, number) for number in numbers], sizes=(12,))
    made = children(store) if invert(store, ALL).made else {}
    if task not in TAGWORLD_MADE:
        assert made == {}
        return
    assert len(made) >= (2 if task in ("style", "destyle") else 11)
    for parent, child in made.items():
        drawn = case(task, parents[parent])
        assert child.native_task == TAGWORLD_MADE[task]
        before, after = pixels(child.images[0]), pixels(child.target)
        assert np.array_equal(before, drawn.target)
        assert np.array_equal(after, drawn.sources[0])
        # What the grammar read backwards makes of the words and of the picture that is edited now.
        read = rule_tags(child.instruction, [before])
        assert read.task == child.native_task, (child.instruction, read.reason)
        assert set(child.tags) <= set(read.descriptor.indices)
        turned = replace(
            drawn,
            task=child.native_task,
            instruction=child.instruction,
            sources=(before,),
            target=after,
            source_scene=drawn.target_scene,
            target_scene=drawn.source_scene,
            tags=read.descriptor,
        )
        assert judge(turned, after).success
        assert not judge(turned, before).success
        assert examine(to_row(child)) == []


def pixels(made: Picture) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(made.data)).convert("RGB"))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "inverse"), [("add", "remove"), ("remove", "add")])
def test_the_words_of_a_tagworld_inverse_name_what_changed(tmp_path, task, inverse):
    store = stored(tmp_path / "s", [of_tagworld(task, number) for number in range(30)], sizes=(30,))
    invert(store, ALL)
    numbers = {of_tagworld(task, number).id: number for number in range(30)}
    for parent, child in children(store).items():
        drawn = case(task, numbers[parent])
        scenes = drawn.source_scene, drawn.target_scene
        (place,) = [i for i in range(4) if scenes[0].cells[i] != scenes[1].cells[i]]
        thing = scenes[0].cells[place] or scenes[1].cells[place]
        words = child.instruction
        named = ("person",) if not hasattr(thing, "shape") else (thing.shape, thing.colour)
        assert any(word in words for word in (*named, "thing at the"))
        if inverse == "add":
            assert all(word in words for word in named)


def test_a_tagworld_picture_that_is_not_exact_is_refused(tmp_path):
    parent = of_tagworld("add", 0)
    spoiled = pixels(parent.target).copy()
    spoiled[0, 0] ^= 1
    outcome = invert(stored(tmp_path / "s", [replace(parent, target=picture(spoiled, kind="PNG"))]), ALL)
    assert outcome.refused == {"TagWorld: the oracle cannot read a picture exactly": 1}
    cut = replace(parent, target=replace(parent.target, data=parent.target.data[:90]))
    assert invert(stored(tmp_path / "t", [cut]), ALL).refused == {"a picture is damaged": 1}


def test_a_column_of_quarantine_that_is_foreign_is_said(tmp_path):
    store = stored(tmp_path / "s", [given(1)])
    with store.writing():
        store.declare([pa.field("quarantine", pa.string())])
        store.set_note("validate", {"version": 1})
    with pytest.raises(DataError, match="another type"):
        validate(store)


def test_ids_of_inverses_differ_by_data_set():
    assert inverse_id("a", "x") != inverse_id("b", "x")
