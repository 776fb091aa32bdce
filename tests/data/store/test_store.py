"""The store: what is appended comes back, columns fill without touching pictures, and writers exclude each other."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from support.stored_content import content_hash

from tagmoe.data.store.location import TABLE
from tagmoe.data.store.record import Picture, Record, TagProvenance, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError


def record(number: int, **changes) -> Record:
    fields = {
        "id": record_id("test", str(number)),
        "dataset": "test",
        "target": Picture(b"target %d" % number, 4, 3),
        "instruction": f"make it {number}",
        "licence": "CC-BY-4.0",
        "images": (Picture(b"source %d" % number, 4, 3), Picture(b"mask", 4, 3, "mask")),
        "quality": {"clip": 0.5 + number},
        "tags": (number % 18,),
        "tag_provenance": TagProvenance("test"),
    }
    return Record(**{**fields, **changes})


def filled(path: Path, counts=(3, 2)) -> Store:
    store = Store.create(path)
    with store.writing():
        start = 0
        for count in counts:
            store.append([record(number) for number in range(start, start + count)])
            start += count
    return store


@contextmanager
def dying(store: Store) -> Iterator[None]:
    """A writer that does what is in the block, and never comes to its end."""
    with suppress(KeyboardInterrupt), store.writing():
        yield
        raise KeyboardInterrupt


def data_files(path: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (path / TABLE / "data").rglob("*.lance")
    }


def test_records_come_back_as_they_were(tmp_path):
    store = filled(tmp_path / "s")
    assert store.records([4, 0]) == [record(4), record(0)]
    assert Store.open(tmp_path / "s").record(record(2).id[:9]) == record(2)


def test_a_record_without_pictures_and_tags(tmp_path):
    bare = record(7, images=(), tags=None, tag_provenance=None, quality={}, instructions=("a", "b"))
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([bare])
    assert store.records([0]) == [bare]
    assert bare.root == bare.target.digest


def test_filling_a_column_rewrites_no_file(tmp_path):
    store = filled(tmp_path / "s")
    before = data_files(tmp_path / "s")
    with store.writing():
        store.declare([pa.field("note", pa.string())])
        assert store.unfilled("note") == store.fragments()
        store.fill(store.fragments()[1], pa.table({"note": ["x", "y"]}))
    after = data_files(tmp_path / "s")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert store.unfilled("note") == store.fragments()[:1]
    assert store.take([2, 3, 4], ["note"])["note"].to_pylist() == [None, "x", "y"]


def test_rows_added_later_are_empty_in_a_declared_column(tmp_path):
    store = filled(tmp_path / "s", (2,))
    with store.writing():
        store.declare([pa.field("note", pa.string())])
        store.fill(store.fragments()[0], pa.table({"note": ["x", "y"]}))
        store.append([record(9)])
    assert len(store.unfilled("note")) == 1


def test_what_other_processes_prepared_is_committed_in_any_order(tmp_path):
    store = filled(tmp_path / "s")
    first, second = store.fragments()
    with store.writing():
        store.declare([pa.field("note", pa.string())])
        reader = Store.open(tmp_path / "s")
        one = reader.prepare(first, pa.table({"note": ["a", "b", "c"]}))
        other = reader.prepare(second, pa.table({"note": ["x", "y"]}))
        assert store.unfilled("note") == [first, second]
        store.commit(pickle.loads(pickle.dumps(other)))
        assert Store.open(tmp_path / "s").unfilled("note") == [first]
        store.commit(one)
    assert store.take(range(5), ["note"])["note"].to_pylist() == ["a", "b", "c", "x", "y"]
    with pytest.raises(DataError, match="open for reading"):
        reader.commit(one)


def test_what_was_prepared_on_an_older_fragment_is_refused(tmp_path):
    store = filled(tmp_path / "s", (2,))
    with store.writing():
        store.declare([pa.field("note", pa.string()), pa.field("mark", pa.string())])
        old = Store.open(tmp_path / "s").prepare(0, pa.table({"mark": ["m", "n"]}))
        store.fill(0, pa.table({"note": ["x", "y"]}))
        with pytest.raises(DataError, match="was changed"):
            store.commit(old)
    assert store.take([0, 1], ["note", "mark"]).to_pylist() == [
        {"note": "x", "mark": None},
        {"note": "y", "mark": None},
    ]


def test_a_fixed_column_can_be_filled_too(tmp_path):
    store = filled(tmp_path / "s", (2,))
    with store.writing():
        store.fill(store.fragments()[0], pa.table({"tags": pa.array([[3], None], pa.list_(pa.int8()))}))
    assert [found.tags for found in store.records([0, 1])] == [(3,), None]


def test_the_content_hash_knows_no_order_and_no_fragments(tmp_path):
    one, other = filled(tmp_path / "a", (5,)), Store.create(tmp_path / "b")
    with other.writing():
        other.append([record(number) for number in (4, 2)])
        other.append([record(number) for number in (0, 1, 3)])
    assert content_hash(one) == content_hash(other)
    with other.writing():
        other.append([record(5)])
    assert content_hash(one) != content_hash(other)


def test_a_note_comes_with_its_batch_even_when_the_writer_dies_after_it(tmp_path):
    store = filled(tmp_path / "s", (1,))
    with store.writing():
        store.set_note("import", {"position": 1})
    with dying(store):
        store.append([record(1)], note=("import", {"position": 2}))
        store.append([record(2)], note=("other", {"rows": 1}))
    again = Store.open(tmp_path / "s")
    assert (len(again), again.notes()) == (3, {"import": {"position": 2}, "other": {"rows": 1}})
    with again.writing():
        again.append([record(3)])
    assert Store.open(tmp_path / "s").notes() == {"import": {"position": 2}, "other": {"rows": 1}}


def test_a_note_outlives_steps_of_every_kind(tmp_path):
    store = filled(tmp_path / "s", (1,))
    steps = {
        "declare": lambda: store.declare([pa.field("extra", pa.int8())]),
        "fill": lambda: store.fill(store.fragments()[0], pa.table({"extra": pa.array([1], pa.int8())})),
        "set_note": lambda: store.set_note("other", {}),
        "append": lambda: store.append([record(90)]),
        "nothing to append": lambda: store.append([], note=("empty", {})),
        "drop": lambda: store.drop(["extra"]),
    }
    for number, (name, step) in enumerate(steps.items(), 1):
        with dying(store):
            store.append([record(number)], note=("import", {"before": name}))
            step()
        assert Store.open(tmp_path / "s").note("import") == {"before": name}


def hold(path, ready, done):
    store = Store.open(path)
    with store.writing():
        ready.set()
        done.wait(30)


def test_a_writer_clears_the_versions_of_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("tagmoe.data.store.store.CLEAR_AFTER", 4)
    store = filled(tmp_path / "s", (1, 1))
    before = store.version
    versions = []
    with store.writing():
        for number in range(2, 12):
            store.append([record(number)], note=("import", {"rows": number}))
            versions.append(len(list((tmp_path / "s" / TABLE / "_versions").glob("*.manifest"))))
    assert max(versions) <= 8
    assert Store.open(tmp_path / "s").records(list(range(12))) == [record(number) for number in range(12)]
    assert Store.open(tmp_path / "s").note("import") == {"rows": 11}
    # those from before this writer stay, the steps in between are gone and said to be
    assert len(Store.open(tmp_path / "s", version=before)) == 2
    with pytest.raises(DataError, match=rf"no version {before + 3} .* newest is {store.version}"):
        Store.open(tmp_path / "s", version=before + 3)


def test_cleaning_removes_what_only_old_versions_use(tmp_path):
    store = filled(tmp_path / "s")
    for values in ("old", "new"):
        with store.writing():
            store.drop(["extra"])
            store.declare([pa.field("extra", pa.string())])
            for number, count in zip(store.fragments(), (3, 2), strict=True):
                store.fill(number, pa.table({"extra": [values] * count}))
    before = len(data_files(tmp_path / "s"))
    with store.writing():
        assert store.clean(timedelta(days=1)).versions == 0
        done = store.clean(timedelta(0))
    assert done.versions > 0
    assert done.files == 2 == before - len(data_files(tmp_path / "s"))
    opened = Store.open(tmp_path / "s")
    assert opened.records(list(range(5))) == [record(number) for number in range(5)]
    assert opened.take(range(5), ["extra"])["extra"].to_pylist() == ["new"] * 5


def test_two_writers_at_once(tmp_path):
    store = filled(tmp_path / "s", (1,))
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "s", ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(DataError, match="Another process is writing"), store.writing():
        pass
    done.set()
    process.join()
    with store.writing():
        store.append([record(1)])
    assert len(store) == 2


def test_an_object_store_has_no_lock_and_the_writer_that_is_overtaken_stops(tmp_path):
    uri = f"file-object-store://{tmp_path}/s"
    first = Store.create(uri)
    second = Store.open(uri)
    with first.writing():
        first.append([record(0)])
        with second.writing():
            second.append([record(1)])
        with pytest.raises(DataError, match="Another process is writing"):
            first.append([record(2)])
    assert Store.open(uri).records([0, 1]) == [record(0), record(1)]
    with pytest.raises(UsageError, match="There is no store"):
        Store.open(f"file-object-store://{tmp_path}/other")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("prefix", ["", "file-object-store://"])
def test_of_processes_that_make_one_store_at_once_each_gets_the_same_store(tmp_path, prefix):
    for number in range(12):
        uri, start = f"{prefix}{tmp_path}/s{number}", threading.Barrier(4)

        def make(uri=uri, start=start) -> Store:
            start.wait()
            return Store.open_or_create(uri)

        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(lambda _, make=make: make(), range(4)))
        # A second version would have replaced the rows of the first.
        assert [store.version for store in made] == [1] * 4
        with made[0].writing():
            made[0].append([record(0)])
        assert len(Store.open(uri)) == 1


def test_a_store_that_was_never_finished_is_made_again(tmp_path):
    Store.create(tmp_path / "s")
    table = tmp_path / "s" / TABLE
    shutil.rmtree(table / "_versions")
    with pytest.raises(UsageError, match="There is no store"):
        Store.open(tmp_path / "s")
    assert len(Store.open_or_create(tmp_path / "s")) == 0
    filled(tmp_path / "full")
    shutil.rmtree(tmp_path / "full" / TABLE / "_versions")
    with pytest.raises(DataError, match="cannot be read"):
        Store.open_or_create(tmp_path / "full")


def test_what_is_no_store_is_said_in_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="There is no store"):
        Store.open(tmp_path / "none")
    filled(tmp_path / "s")
    with pytest.raises(DataError, match="already"):
        Store.create(tmp_path / "s")
    for manifest in (tmp_path / "s" / TABLE / "_versions").iterdir():
        manifest.write_bytes(b"rubbish")
    with pytest.raises(DataError, match="cannot be read"):
        Store.open(tmp_path / "s")


def test_a_newer_store_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tagmoe.data.store.store.VERSION", 2)
    filled(tmp_path / "s")
    monkeypatch.undo()
    with pytest.raises(DataError, match="version '2'"):
        Store.open(tmp_path / "s")


def test_writing_needs_the_lock(tmp_path):
    with pytest.raises(DataError, match="open for reading"):
        filled(tmp_path / "s").append([record(9)])


def test_relatives_are_on_the_same_side():
    child = record(1, images=(record(1).target,), target=record(1).images[0], root=record(1).root)
    assert child.split == record(1).split
    sides = [record(number).split for number in range(2000)]
    assert 5 <= sides.count("validation") <= 40
