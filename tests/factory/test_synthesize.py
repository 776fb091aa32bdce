"""A plan from roots to samples: what is kept, what is dropped and why, and what each sample says of its makers."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.bad_editors import drawn, fault_of
from support.stored_content import content_hash
from support.syntheses import a_plan, synthesize

from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.evaluate.answers import answer
from tagmoe.factory import editor_process
from tagmoe.factory.folder import Folder
from tagmoe.pictures import load_image

EDIT = {"step": "edit", "editor": "inverted", "licence": "MIT", "timeout": None}
STEPS = (EDIT, {"step": "check"}, {"step": "pick"}, {"step": "dedupe"}, {"step": "split"})


def rows(folder, name, *columns):
    return [row for batch in Store.open(folder / name).scan(list(columns)) for row in batch.to_pylist()]


def test_a_plan_makes_samples_with_their_makers(tmp_path) -> None:
    found = synthesize(tmp_path / "a", a_plan(*STEPS))
    assert (found.kept, found.preference_pairs) == (12, 0)
    assert [(step.title, step.before, step.after) for step in found.steps] == [
        ("roots", 12, 12),
        ("1 edit", 12, 12),
        ("2 check", 12, 12),
        ("3 pick", 12, 12),
        ("4 dedupe", 12, 12),
    ]
    store, roots = Store.open(tmp_path / "a" / "store"), Store.open(tmp_path / "a" / "roots")
    by_id = {root.id: root for root in roots.records(range(len(roots)))}
    for record in store.records(range(len(store))):
        root = by_id[record.parent]
        expected = 255 - np.asarray(load_image(root.inputs[0].data))
        assert np.array_equal(np.asarray(load_image(record.target.data)), expected)
        assert (record.root, record.instruction, record.tags) == (root.root, root.instruction, root.tags)
        assert record.licence == "Apache-2.0 AND MIT"
    (maker,) = json.loads(rows(tmp_path / "a", "store", "made_by")[0]["made_by"])
    assert (maker["model"], maker["licence"], maker["step"]) == ("inverted", "MIT", "1 edit")
    again = synthesize(tmp_path / "a", a_plan(*STEPS))
    assert (again.kept, len(Store.open(tmp_path / "a" / "candidates"))) == (12, 12)


def test_every_fault_of_an_editor_is_named_and_harms_no_other_row(tmp_path) -> None:
    step = {**EDIT, "editor": "unreliable", "batch": 16}
    plan = a_plan(step, {"step": "check"}, {"step": "pick"}, count=32, unit=32)
    found = synthesize(tmp_path / "a", plan)
    roots = rows(tmp_path / "a", "roots", "id", "instruction")
    negatives = {
        row["parent"]: row["quarantine"][0] for row in rows(tmp_path / "a", "negatives", "parent", "quarantine")
    }
    failed = {row["root"]: row for row in Folder(tmp_path / "a").failed("1-edit")}
    kept = {row["parent"] for row in rows(tmp_path / "a", "store", "parent")}
    seeds = {
        row["parent"]: int(row["origin"].split("seed ")[1].split(",")[0])
        for row in rows(tmp_path / "a", "candidates", "parent", "origin")
    }
    seeds |= {name: row["seed"] for name, row in failed.items()}
    counts: Counter[str | None] = Counter()
    for root in roots:
        fault = fault_of(root["instruction"], seeds[root["id"]])
        counts[fault] += 1
        if fault is None:
            assert root["id"] in kept
        else:
            assert fault in (negatives.get(root["id"]) or failed[root["id"]]["reason"]), fault
    assert len(counts) == 6, f"a fault was never drawn: {counts}"
    assert found.kept == counts[None]


def test_a_maker_that_forbids_training_is_refused_before_anything_is_made_or_its_samples_are_marked(tmp_path) -> None:
    step = {**EDIT, "may_train": False}
    with pytest.raises(UsageError, match="forbid training"):
        synthesize(tmp_path / "a", a_plan(step))
    assert not (tmp_path / "a").exists()
    found = synthesize(tmp_path / "a", a_plan(step, count=4, untrainable="mark"))
    assert found.licences == {"Apache-2.0 AND MIT AND LicenseRef-no-training": 4}


def test_another_editor_needs_another_folder_and_another_check_does_not(tmp_path) -> None:
    strict = {"step": "check", "thresholds": {"all": {"copied": 256}}}
    assert synthesize(tmp_path / "a", a_plan(EDIT, {"step": "check"}, count=4)).kept == 4
    assert synthesize(tmp_path / "a", a_plan(EDIT, strict, count=4)).kept == 0
    assert len(rows(tmp_path / "a", "negatives", "id")) == 4
    assert synthesize(tmp_path / "a", a_plan(EDIT, {"step": "check"}, count=4)).kept == 4
    with pytest.raises(UsageError, match="begun with other editors"):
        synthesize(tmp_path / "a", a_plan({**EDIT, "editor": "copying"}, {"step": "check"}, count=4))


def test_quotas_are_met_by_survivors_and_no_more_roots_are_tried(tmp_path) -> None:
    quotas = {"least": {"light": 2, "add": 1}, "round": 4}
    found = synthesize(tmp_path / "a", a_plan(*STEPS, count=40, unit=4, quotas=quotas))
    assert all(have >= wanted for have, wanted in found.quotas.values())
    tried = found.steps[0].before
    assert tried < 30
    assert synthesize(tmp_path / "a", a_plan(*STEPS, count=40, unit=4, quotas=quotas)).steps[0].before == tried


def test_of_several_seeds_the_best_is_kept_and_the_worse_are_its_rejected_pictures(tmp_path) -> None:
    step = {**EDIT, "editor": "copying", "seeds": 4}
    found = synthesize(
        tmp_path / "a", a_plan(step, {"step": "check"}, {"step": "pick", "losers": 2}, count=24, unit=24)
    )
    assert found.kept == 24
    store = Store.open(tmp_path / "a" / "store")
    rejected = 0
    for record in store.records(range(24)):
        source = np.asarray(load_image(record.inputs[0].data))
        for picture in record.images:
            if picture.role == "rejected":
                rejected += 1
                assert np.array_equal(np.asarray(load_image(picture.data)), source), "only failed pictures are worse"
    assert rejected == found.preference_pairs > 0


def test_roots_on_a_benchmark_are_refused_before_they_are_edited(tmp_path) -> None:
    synthesize(tmp_path / "first", a_plan(EDIT, count=4))
    roots = Store.open(tmp_path / "first" / "roots")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "one.png").write_bytes(roots.records([1])[0].inputs[0].data)
    found = synthesize(tmp_path / "a", a_plan(EDIT, count=4, benchmarks=[str(tmp_path / "bench")]))
    assert found.steps[0].dropped == {"benchmark picture": 1}
    assert found.steps[1].before == found.kept == 3


def test_the_process_of_an_editor_catches_what_answers_catch() -> None:
    assert editor_process.RAISED == answer.RAISED


@pytest.mark.slow
def test_an_editor_that_hangs_or_dies_is_started_again_and_its_rows_are_named(tmp_path) -> None:
    step = {**EDIT, "editor": "stopping", "timeout": 5.0, "batch": 8}
    found = synthesize(tmp_path / "a", a_plan(step, {"step": "check"}, count=24, unit=24))
    failed = Folder(tmp_path / "a").failed("1-edit")
    assert found.kept == 24 - len(failed)
    assert {row["reason"] for row in failed} == {
        "The editor gave nothing within 5 s",
        "The process of the editor died",
    }
    for row in failed:
        assert int(drawn(row["instruction"], row["seed"]) * 10) == ("died" in row["reason"])


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "workers"), [("local", 2), ("ray", 2)])
def test_every_engine_makes_the_same_samples_each_once(tmp_path, engine, workers, monkeypatch) -> None:
    # Ray's workers import the editors of the tests.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    plan = a_plan({**EDIT, "editor": "unreliable"}, {"step": "check"}, {"step": "pick"}, count=20)
    one = synthesize(tmp_path / "one", plan)
    other = synthesize(tmp_path / "other", plan, engine=engine, workers=workers)
    assert (other.kept, other.steps[1].dropped) == (one.kept, one.steps[1].dropped)
    for name in ("store", "negatives"):
        assert content_hash(Store.open(tmp_path / "other" / name)) == content_hash(Store.open(tmp_path / "one" / name))
