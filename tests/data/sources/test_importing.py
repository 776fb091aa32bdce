"""An import goes on where it was stopped, adds nothing twice, loses nothing, and refuses what it must."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edit_files import jsonl_folder, picture_bytes, write_lines
from support.failing_disk import read_only, small_files
from support.stored_content import content_hash

from tagmoe.data.sources import source as terms
from tagmoe.data.sources.importing import KNOWN, import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.source import Licence
from tagmoe.data.store import known_ids
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.store import IMPORT_NOTE, Store
from tagmoe.errors import DataError, UsageError


def source(path: Path, **options) -> JsonlSource:
    return JsonlSource(path, licence="CC-BY-4.0", **options)


class Stopping:
    """A source that fails before it gives a row."""

    def __init__(self, inner, row: int, error: BaseException) -> None:
        self.inner, self.row, self.error = inner, row, error
        self.name, self.licence = inner.name, inner.licence

    def identity(self):
        return self.inner.identity()

    def fingerprint(self):
        return self.inner.fingerprint()

    def rows(self, start=0):
        for row in self.inner.rows(start):
            if row.next > self.row:
                raise self.error
            yield row

    def __len__(self):
        return len(self.inner)


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    return jsonl_folder(tmp_path / "edits", 10)


def test_all_rows_come_in_and_the_same_source_again_adds_nothing(tmp_path, edits):
    store = Store.create(tmp_path / "s")
    seen = []
    found = import_source(store, source(edits), batch_rows=4, progress=lambda done, total: seen.append((done, total)))
    assert (found.accepted, found.rows, found.skipped, found.already) == (10, 10, {}, False)
    assert seen == [(number, 10) for number in range(1, 11)]
    assert [record.instruction for record in store.records(range(10))] == [f"edit {number}" for number in range(10)]
    assert found.bytes == sum(file.stat().st_size for file in (edits.parent / "pictures").iterdir())
    version = store.version
    again = import_source(Store.open(tmp_path / "s"), source(edits))
    assert (again.already, again.accepted) == (True, 10)
    assert (Store.open(tmp_path / "s").version, len(store)) == (version, 10)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("row", [0, 1, 3, 4, 9])
def test_a_stopped_import_goes_on_behind_its_last_batch(tmp_path, edits, row):
    whole, store = Store.create(tmp_path / "whole"), Store.create(tmp_path / "s")
    import_source(whole, source(edits))
    with pytest.raises(KeyboardInterrupt):
        import_source(store, Stopping(source(edits), row, KeyboardInterrupt()), batch_rows=3)
    assert len(Store.open(tmp_path / "s")) == row // 3 * 3
    found = import_source(Store.open(tmp_path / "s"), source(edits), batch_rows=2)
    assert (found.accepted, found.rows, found.skipped, found.resumed) == (10, 10, {}, row // 3 * 3)
    assert content_hash(Store.open(tmp_path / "s")) == content_hash(whole)


def test_rows_skipped_before_a_kill_are_counted_once(tmp_path, edits):
    lines = edits.read_text().splitlines()
    bad = [f'{{"instruction": "x{number}"}}' for number in range(3)]
    write_lines(edits, [bad[0], *lines[:5], bad[1], *lines[5:], bad[2]])
    store = Store.create(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        import_source(store, Stopping(source(edits), 9, KeyboardInterrupt()), batch_rows=4)
    found = import_source(store, source(edits), batch_rows=4)
    assert (found.accepted, found.rows, found.skipped) == (10, 13, {"no target picture": 3})


def test_the_same_files_elsewhere_give_the_same_ids(tmp_path, edits):
    store = Store.create(tmp_path / "s")
    import_source(store, source(edits))
    shutil.copytree(edits.parent, tmp_path / "copy")
    more = jsonl_folder(tmp_path / "copy", 12)
    found = import_source(store, source(more), batch_rows=5)
    assert (found.accepted, found.skipped) == (2, {KNOWN: 10})
    assert len(set(store.take(range(12), ["id"])["id"].to_pylist())) == len(store) == 12


def test_a_line_that_is_there_twice_is_one_record(tmp_path, edits):
    edits.write_text(edits.read_text() * 2)
    store = Store.create(tmp_path / "s")
    found = import_source(store, source(edits), batch_rows=7)
    assert (found.accepted, found.skipped, len(store)) == (10, {KNOWN: 10}, 10)


def test_a_batch_ends_by_bytes_too(tmp_path, edits):
    store = Store.create(tmp_path / "s")
    size = len(picture_bytes(0)) + len(picture_bytes(1))
    import_source(store, source(edits), batch_bytes=2 * size - 8)
    assert 5 <= len(store.fragments()) <= 10


def test_the_position_is_noted_where_no_row_gives_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr("tagmoe.data.sources.importing.NOTE_AFTER", 5)
    path = write_lines(tmp_path / "bad.jsonl", ["rubbish"] * 12)
    store = Store.create(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        import_source(store, Stopping(source(path), 11, KeyboardInterrupt()))
    assert [note["position"] for note in store.notes(IMPORT_NOTE).values()] == [10]
    assert import_source(store, source(path)).skipped == {"line that is no JSON": 12}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CC-BY-NC-4.0", "no commercial use"),
        ("CC-BY-ND-4.0", "no derivatives"),
        ("CC-BY-NC-ND-4.0", "no commercial use and no derivatives"),
        ("none", "its authors state no licence"),
    ],
)
def test_a_restricted_licence_must_be_accepted_by_name(tmp_path, edits, name, words):
    store = Store.create(tmp_path / "s")
    restricted = JsonlSource(edits, licence=name)
    with pytest.raises(UsageError, match=rf"\({words}\).*--accept-licence {name}\.$"):
        import_source(store, restricted)
    assert len(store) == 0
    assert import_source(store, restricted, accepted_licences=[name]).accepted == 10
    assert store.records([0])[0].licence == name


def test_free_licences_are_not_taken_for_restricted_ones():
    for name in ("MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "BSD-3-Clause", "INCOMPLETE-1.0"):
        assert not Licence.named(name).restricted
    assert Licence.named("cc-by-nc-sa-4.0").restricted
    assert terms.Licence("x", derivatives=False).limits == "no derivatives"


def test_a_row_with_a_restricted_licence_of_its_own_is_skipped_until_it_is_accepted(tmp_path, edits):
    lines = edits.read_text().splitlines()
    edits.write_text("\n".join([*lines[:9], lines[9].replace("{", '{"licence": "CC-BY-NC-4.0", ', 1)]))
    store = Store.create(tmp_path / "s")
    found = import_source(store, source(edits))
    assert (found.accepted, found.skipped) == (9, {"licence CC-BY-NC-4.0 not accepted": 1})
    found = import_source(store, source(edits), accepted_licences=["CC-BY-NC-4.0"])
    assert (found.accepted, found.skipped) == (1, {KNOWN: 9})


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("bad\npage"), RuntimeError()])
def test_a_source_that_breaks_is_named_and_not_the_store(tmp_path, edits, error):
    store = Store.create(tmp_path / "s")
    with pytest.raises(DataError, match=r"^The source 'jsonl' cannot be read \(.+\); check its files\.$"):
        import_source(store, Stopping(source(edits), 4, error), batch_rows=2)
    assert import_source(store, source(edits)).resumed == 4
    assert len(store) == 10


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    edits = jsonl_folder(tmp_path / "edits", 8, size=(64, 64))
    whole, store = Store.create(tmp_path / "whole"), Store.create(tmp_path / "s")
    import_source(whole, source(edits), batch_rows=2)
    with (
        small_files(40_000),
        pytest.raises(DataError, match=r"^The store '.*' cannot be written: [^\n]*File too large"),
    ):
        import_source(store, source(edits), batch_rows=4)
    with monkeypatch.context() as patch:
        patch.setattr("lance.write_dataset", full)
        with pytest.raises(DataError, match="the disk is full; free some space and run the same command again"):
            import_source(store, source(edits), batch_rows=2)
    assert import_source(store, source(edits), batch_rows=2).accepted == 8
    assert content_hash(Store.open(tmp_path / "s")) == content_hash(whole)


def full(*_args, **_kwargs):
    raise OSError("LanceError(IO): No space left on device (os error 28), /rust/lance-io/src/x.rs:1")


def test_a_read_only_store():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edits = jsonl_folder(folder / "edits", 3)
        Store.create(folder / "s")
        with read_only(folder):
            with pytest.raises(DataError, match=r"^Nothing can be written in the store '.*' \(Permission denied\)\.$"):
                import_source(Store.open(folder / "s"), source(edits))
            with pytest.raises(DataError, match=r"^The store '.*' cannot be made: permission denied\.$"):
                Store.create(folder / "other")
        assert import_source(Store.open(folder / "s"), source(edits)).accepted == 3


def test_two_importers_at_once(tmp_path, edits):
    one, other = Store.create(tmp_path / "s"), Store.open(tmp_path / "s")

    def meddle(done: int, total: int) -> None:
        if done == 5:
            with pytest.raises(DataError, match="Another process is writing"):
                import_source(other, source(edits))

    assert import_source(one, source(edits), batch_rows=2, progress=meddle).accepted == 10
    assert import_source(other, source(edits)).already


class Rows:
    """As much of a store as KnownIds asks for."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids

    def scan(self, columns, rows):
        import pyarrow as pa

        for start in range(0, len(self.ids), 3):
            yield pa.record_batch({"id": self.ids[start : start + 3]})

    def take(self, rows, columns):
        import pyarrow as pa

        return pa.table({"id": [self.ids[row] for row in rows]})


# few beginnings, which the test takes for hashes, so that different ids share one
IDS = st.builds(lambda head, tail: f"{head:016x}{tail:016x}", st.integers(0, 3), st.integers(0, 5))


@given(st.lists(IDS, unique=True), st.lists(st.lists(IDS, unique=True, max_size=6), max_size=6))
def test_known_ids_are_exact_when_hashes_collide(first, batches):
    rows = Rows(list(first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_ids, "_hashes", lambda ids: np.array([int(name[:16], 16) for name in ids], np.int64))
        known = KnownIds(rows)
        for batch in batches:
            found = known.among(batch)
            assert found == set(batch) & set(rows.ids)
            new = [name for name in batch if name not in found]
            rows.ids += new
            known.add(new)


MANY = """
import os, sys
from tagmoe.data.sources.benchmark_pictures import benchmark_pictures
from tagmoe.data.sources.importing import import_source
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.store import Store

class Made:
    name, licence = "made", Licence("MIT")
    def identity(self): return {}
    def fingerprint(self): return {}
    def __len__(self): return 20_000
    def rows(self, start=0):
        for number in range(start, 20_000):
            one, other = (Picture(os.urandom(5000), 8, 8) for _ in range(2))
            record = Record(record_id("made", str(number)), "made", one, "x", "MIT", (other,))
            yield Row(number + 1, (record,))

def watch(done, total):
    if done % 1000 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        print(pages * os.sysconf("SC_PAGE_SIZE"), flush=True)

import_source(Store.create(sys.argv[1]), Made(), batch_rows=500, progress=watch)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_flat_over_20000_rows(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True, check=True
    )
    resident = [int(line) for line in found.stdout.split()]
    assert len(Store.open(tmp_path / "s")) == len(resident) * 1000 == 20_000
    # 200 MB of pictures come in; what is held must not grow with them
    assert max(resident[10:]) < max(resident[2:10]) + 30e6


KILLED = """
import sys
from pathlib import Path
from tagmoe.data.sources.benchmark_pictures import benchmark_pictures
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.store.store import Store
store = Store.open_or_create(sys.argv[2])

def progress(done, total):
    print(done, flush=True)
    # in step with the test: on a fast machine all rows would be in before it has read a few lines
    sys.stdin.readline()

import_source(store, JsonlSource(Path(sys.argv[1]), licence="MIT"), batch_rows=7, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_points(tmp_path):
    count, dice = 150, random.Random(5)
    edits = jsonl_folder(tmp_path / "edits", count)
    whole = Store.create(tmp_path / "whole")
    import_source(whole, JsonlSource(edits, licence="MIT"), batch_rows=7)
    store, kills, stores = tmp_path / "s0", 0, 0
    partly = 0
    while kills < 20:
        command = [sys.executable, "-c", KILLED, str(edits), str(store)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert process.stdin is not None
        assert process.stdout is not None
        # lines begin behind the rows that earlier runs left
        for _ in range(dice.randint(1, 60)):
            if not process.stdout.readline():
                break
            process.stdin.write("go on\n")
        try:
            # now in the middle of writing a batch, or of its note, or of reading on
            process.wait(dice.random() * 0.02)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
        if process.wait() == -signal.SIGKILL:
            kills += 1
            partly += 0 < len(Store.open(store)) < count
            continue
        assert content_hash(Store.open(store)) == content_hash(whole)
        stores += 1
        store = tmp_path / f"s{stores}"
    found = import_source(Store.open(store), JsonlSource(edits, licence="MIT"), batch_rows=7)
    assert (found.accepted, found.rows, found.skipped) == (count, count, {})
    assert content_hash(Store.open(store)) == content_hash(whole)
    assert partly >= 5
