"""A whole store: the column, ids over all of it, what is stale, workers, and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pyarrow as pa
import pytest
from support.made_pictures import picture, scene, sound
from support.stored_content import content_hash

from tagmoe.data.check import checks
from tagmoe.data.check.validate import QUARANTINE, later_copies, summarise, validate
from tagmoe.data.store.record import Picture
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError


def stored(path, *fragments) -> Store:
    store = Store.create(path)
    with store.writing():
        for records in fragments:
            store.append(records)
    return store


def column(store: Store) -> list[list[str] | None]:
    return [row for batch in store.scan(["quarantine"]) for row in batch.column(0).to_pylist()]


def mixed() -> list[list]:
    cut = sound(3).images[0].data[:2000]
    return [
        [sound(0), sound(1, instruction=""), sound(2)],
        [sound(3, images=(Picture(cut, 128, 128),)), sound(0), sound(4, dataset="other", tags=(0,))],
    ]


MIXED = [[], ["empty instruction"], [], ["undecodable"], ["duplicate id"], ["tag rules"]]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("workers", [1, 2])
def test_the_column_says_what_was_found(tmp_path, workers):
    store = stored(tmp_path / "s", *mixed())
    told = []
    assert validate(store, workers=workers, progress=lambda *done: told.append(done)) == 6
    assert column(Store.open(tmp_path / "s")) == MIXED
    assert told[-1] == (6, 6)
    summary = summarise(store)
    assert (summary.records, summary.unsound) == (6, 4)
    assert {name: dict(counts) for name, counts in summary.counts.items()} == {
        "empty instruction": {"made": 1},
        "undecodable": {"made": 1},
        "duplicate id": {"made": 1},
        "tag rules": {"other": 1},
    }
    assert summary.first["undecodable"] == [(3, sound(3).id)]


@pytest.mark.slow
def test_only_what_is_not_checked_is_checked(tmp_path):
    store = stored(tmp_path / "s", *mixed())
    validate(store)
    before = content_hash(store)
    assert validate(store) == 0
    assert content_hash(store) == before
    with store.writing():
        store.append([sound(9), sound(1)])
    assert validate(store) == 2
    # An id of an earlier fragment is found; the fragments before were not looked at again.
    assert column(store) == [*MIXED, [], ["duplicate id"]]
    assert validate(store, policy=checks.Policy.of({"long instruction": "3"})) == 8, "other limits check all"
    assert sum("long instruction" in names for names in column(store)) == 7
    assert validate(store, policy=checks.Policy.of({"long instruction": "3"})) == 0


def test_tags_that_were_set_after_a_validation_are_checked(tmp_path):
    store = stored(tmp_path / "s", [sound(1), sound(2)], [sound(3)])
    validate(store)
    with store.writing():
        (first, _) = store.fragments()
        store.fill(first, pa.table({"tags": pa.array([[0, 1], [0, 6, 13]], pa.list_(pa.int8()))}))
    assert validate(store) == 0
    assert [bool(names) for names in column(store)] == [True, False, False]
    assert column(store)[0] == ["tag rules"]
    with store.writing():
        store.fill(first, pa.table({"tags": pa.array([[0, 6, 13]] * 2, pa.list_(pa.int8()))}))
    validate(store)
    assert column(store) == [[], [], []]


def test_results_of_other_checks_are_made_again(tmp_path, monkeypatch):
    store = stored(tmp_path / "s", *mixed())
    validate(store)
    monkeypatch.setattr(checks, "VERSION", checks.VERSION + 1)
    assert validate(store) == 6
    assert store.note("validate") == {
        "version": checks.VERSION,
        "limits": dict(sorted(checks.DEFAULT.limits.items())),
    }
    assert validate(store) == 0


def test_a_column_without_the_note_is_not_trusted(tmp_path):
    store = stored(tmp_path / "s", [sound(1)])
    with store.writing():
        store.declare([QUARANTINE])
        store.fill(store.fragments()[0], pa.table({"quarantine": pa.array([["tiny"]], QUARANTINE.type)}))
    assert validate(store) == 1
    assert column(store) == [[]]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("step", ["drop", "set_note", "declare"])
def test_a_run_that_dies_between_two_versions(tmp_path, monkeypatch, step):
    store = stored(tmp_path / "s", *mixed())
    validate(store)
    monkeypatch.setattr(checks, "VERSION", checks.VERSION + 1)
    for when in ("before", "after"):
        with monkeypatch.context() as patch:
            done = getattr(Store, step)

            def die(self, *given, done=done, when=when):
                if when == "after":
                    done(self, *given)
                raise KeyboardInterrupt

            patch.setattr(Store, step, die)
            with pytest.raises(KeyboardInterrupt):
                validate(store, again=True)
    store = Store.open(tmp_path / "s")
    assert validate(store) == 6
    assert column(store) == MIXED


@pytest.mark.slow
def test_ids_are_compared_in_any_number_of_passes(tmp_path, monkeypatch):
    small = picture(scene(64, 64))
    records = [sound(number % 70, images=(small,), target=small) for number in range(100)]
    store = stored(tmp_path / "s", records[:37], records[37:90], records[90:])
    for at_once in (1000, 30, 1):
        monkeypatch.setattr("tagmoe.data.check.validate.IDS_AT_ONCE", at_once)
        starts, copies = later_copies(store)
        assert list(starts.values()) == [(0, 37), (37, 53), (90, 10)]
        assert copies.tolist() == list(range(70, 100))


def test_an_empty_store(tmp_path):
    store = Store.create(tmp_path / "s")
    assert validate(store) == 0
    assert summarise(store).records == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_store(tmp_path):
    big = picture(scene(512, 512), kind="PNG")
    peaks = []
    for name, fragments in (("a", 1), ("b", 4)):
        records = [
            [sound(10 * part + number, images=(), target=big) for number in range(10)] for part in range(fragments)
        ]
        store = stored(tmp_path / name, *records)
        del records
        tracemalloc.start()
        validate(store)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


def test_a_worker_that_is_killed_is_said(tmp_path, monkeypatch):
    store = stored(tmp_path / "s", [sound(number) for number in range(10)])
    monkeypatch.setattr("tagmoe.data.check.validate._start_worker", _die)
    with pytest.raises(DataError, match="fewer --workers"):
        validate(store, workers=2)
    monkeypatch.undo()
    assert validate(store, workers=1) == 10


def _die() -> None:
    import os

    os._exit(9)


def test_another_writer(tmp_path):
    store = stored(tmp_path / "s", [sound(1)])
    with Store.open(tmp_path / "s").writing(), pytest.raises(DataError, match="Another process is writing"):
        validate(store)


@pytest.mark.slow
def test_all_of_a_fragment_counts_when_its_rows_are_not_sound(tmp_path):
    store = stored(tmp_path / "s", [replace(sound(number), instruction=" ") for number in range(40)])
    validate(store)
    assert column(store) == [["empty instruction"]] * 40
    assert len(summarise(store).first["empty instruction"]) == 5
