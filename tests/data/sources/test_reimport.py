"""An import that is run again takes in what has arrived, and finds or replaces what has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.edit_files import jsonl_folder, picture_bytes, write_lines

from tagmoe.data.check.validate import validate
from tagmoe.data.sources.importing import KNOWN, import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.pairs import PairsSource
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.data.sources.reimport import CHANGED
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError


def source(path: Path) -> JsonlSource:
    return JsonlSource(path, licence="CC-BY-4.0")


def again(store: Store, path: Path, **options):
    return import_source(Store.open(store.uri), source(path), **options)


def texts(store: Store) -> list[str]:
    return Store.open(store.uri).take(range(len(store)), ["instruction"])["instruction"].to_pylist()


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    return jsonl_folder(tmp_path / "edits", 10)


@pytest.fixture
def store(tmp_path: Path, edits: Path) -> Store:
    store = Store.create(tmp_path / "s")
    import_source(store, source(edits), batch_rows=4)
    return store


def rewrite(file: Path, old: str, new: str) -> None:
    """Change a file, and neither its length nor its time of change."""
    before = file.stat()
    file.write_text(file.read_text().replace(old, new))
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_picture_that_arrives_later_comes_in(tmp_path, edits):
    picture = edits.parent / "pictures" / "3-after.png"
    data = picture.read_bytes()
    picture.unlink()
    store = Store.create(tmp_path / "s")
    found = import_source(store, source(edits))
    assert [tuple(item) for item in found.skipped_rows] == [(4, "edits.jsonl:4", "missing picture file")]
    assert [json.loads(line) for line in Path(found.skipped_file).read_text().splitlines()] == [
        {"row": 4, "origin": "edits.jsonl:4", "reason": "missing picture file"}
    ]
    assert again(store, edits).skipped == {"missing picture file": 1}
    picture.write_bytes(data)
    found = again(store, edits)
    assert (found.accepted, found.added, found.skipped, found.skipped_file, found.already) == (10, 1, {}, None, False)
    assert sorted(texts(Store.open(store.uri))) == [f"edit {number}" for number in range(10)]
    found = again(store, edits)
    assert (found.accepted, found.added, found.already) == (10, 0, True)


def test_a_caption_that_was_corrected_in_place_is_found_and_replaced(store, edits):
    rewrite(edits, "edit 5", "edit X")
    found = again(store, edits)
    assert (found.changed, found.skipped, found.added, len(store)) == (("edits.jsonl:6",), {CHANGED: 1}, 0, 10)
    found = again(store, edits, refresh=True)
    assert (found.changed, found.skipped, found.replaced, found.accepted) == ((), {}, 1, 10)
    assert texts(store)[5] == "edit X"
    assert len(Store.open(store.uri)) == 10
    assert again(store, edits, refresh=True).already


def test_a_picture_of_the_same_size_is_another_picture(store, edits):
    file = edits.parent / "pictures" / "2-after.png"
    other = bytearray(file.read_bytes())
    other[-1] ^= 1
    file.write_bytes(other)
    assert again(store, edits).changed == ("edits.jsonl:3",)
    again(store, edits, refresh=True)
    assert Store.open(store.uri).records([2])[0].target.data == bytes(other)


def test_another_picture_with_the_size_and_the_time_of_the_first_is_found(store, edits):
    file = edits.parent / "pictures" / "2-after.png"
    before, other = file.stat(), bytearray(file.read_bytes())
    other[-1] ^= 1
    file.write_bytes(other)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again(store, edits).changed == ("edits.jsonl:3",)


def test_a_picture_that_changes_while_it_is_imported_is_looked_at_again(tmp_path, edits):
    file = edits.parent / "pictures" / "9-after.png"
    new = picture_bytes(50)

    class Changing(JsonlSource):
        def _made(self, values, place, origin):
            found = super()._made(values, place, origin)
            if origin.endswith(":10"):
                file.write_bytes(new)
            return found

    store = Store.create(tmp_path / "s")
    import_source(store, Changing(edits, licence="CC-BY-4.0"))
    assert again(store, edits).changed == ("edits.jsonl:10",)


def test_an_import_with_other_options_replaces_by_id_when_asked_to(store, edits):
    def named() -> JsonlSource:
        return JsonlSource(edits, licence="CC-BY-4.0", constants={"native_task": "swap"})

    assert import_source(Store.open(store.uri), named()).skipped == {KNOWN: 10}
    other = Store.create(Path(store.uri).parent / "other")
    import_source(other, source(edits))
    found = import_source(Store.open(other.uri), named(), refresh=True)
    assert (found.replaced, found.added, len(Store.open(other.uri))) == (10, 0, 10)
    assert Store.open(other.uri).records([3])[0].native_task == "swap"


def test_a_batch_that_cannot_be_written_ends_the_import(tmp_path, edits, monkeypatch):
    store = Store.create(tmp_path / "s")
    append = Store.append

    def full(self, records, *, note=None):
        if len(self) == 4:
            raise DataError("The disk is full.")
        append(self, records, note=note)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "append", full)
        with pytest.raises(DataError, match="full"):
            import_source(store, source(edits), batch_rows=2)
    found = again(store, edits)
    assert (found.resumed, found.accepted, len(Store.open(store.uri))) == (4, 10, 10)


def test_a_file_that_was_only_touched_has_not_changed(store, edits):
    for file in (edits, *(edits.parent / "pictures").iterdir()):
        os.utime(file, (1, 1))
    found = again(store, edits)
    assert (found.changed, found.added, found.skipped, found.already) == ((), 0, {}, True)


def test_rows_that_only_moved_have_not_changed(store, edits):
    lines = edits.read_text().splitlines()
    new = json.dumps(json.loads(lines[0]) | {"instruction": "a new one"})
    write_lines(edits, [new, *reversed(lines)])
    found = again(store, edits, refresh=True)
    assert (found.added, found.replaced, found.changed) == (1, 0, ())
    assert sorted(texts(Store.open(store.uri))) == sorted(["a new one", *(f"edit {number}" for number in range(10))])


def test_the_columns_of_a_replaced_row_are_emptied_and_no_row_moves(store, edits):
    validate(store)
    rewrite(edits, "edit 9", "edit Z")
    again(store, edits, refresh=True)
    opened = Store.open(store.uri)
    found = [row["quarantine"] is None for row in opened.take(range(10), ["quarantine"]).to_pylist()]
    assert found == [number == 9 for number in range(10)]
    assert validate(opened) == 2, "its fragment of two rows is checked again"


def test_two_folders_of_one_name_do_not_replace_each_other(tmp_path, store, edits):
    other = jsonl_folder(tmp_path / "other", 3)
    other.write_text(other.read_text().replace("edit", "task"))
    (other.parent / "pictures" / "1-after.png").unlink()
    again(store, other)
    (other.parent / "pictures" / "1-after.png").write_bytes(picture_bytes(99))
    found = again(store, other, refresh=True)
    assert (found.added, found.replaced) == (1, 0)
    rewrite(other, "task 2", "task Z")
    found = again(store, other, refresh=True)
    assert found.replaced == 0
    assert list(found.skipped) == ["changed since its import, and several records have its origin"]
    assert set(texts(Store.open(store.uri))) >= {f"edit {number}" for number in range(10)}


def test_a_replaced_parquet_file_is_read_again(tmp_path):
    def write(instruction: str) -> None:
        table = pa.table({"text": ["a", instruction], "out": [picture_bytes(0), picture_bytes(1)]})
        pq.write_table(table, tmp_path / "x.parquet")

    def source() -> ParquetSource:
        return ParquetSource(tmp_path / "x.parquet", "x", "MIT", {"instruction": "text", "target": "out"})

    write("b")
    store = Store.create(tmp_path / "s")
    import_source(store, source())
    write("c")
    assert import_source(store, source()).changed == ("x.parquet:1",)
    assert import_source(store, source(), refresh=True).replaced == 1
    assert texts(store) == ["a", "c"]


def test_a_text_file_of_a_pair(tmp_path):
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(picture_bytes(len(side)))
    store = Store.create(tmp_path / "s")
    assert import_source(store, PairsSource(tmp_path, licence="MIT")).skipped == {"no instruction": 1}
    (tmp_path / "a.txt").write_text("one")
    assert import_source(store, PairsSource(tmp_path, licence="MIT")).added == 1
    (tmp_path / "a.txt").write_text("two")
    assert import_source(store, PairsSource(tmp_path, licence="MIT"), refresh=True).replaced == 1
    assert texts(store) == ["two"]


def test_a_file_that_changed_before_its_import_ended_is_read_from_the_start(tmp_path, edits):
    store = Store.create(tmp_path / "s")

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_source(store, source(edits), batch_rows=2, progress=stop)
    lines = edits.read_text().splitlines()
    write_lines(edits, lines[::-1])
    found = again(store, edits)
    assert (found.accepted, len(Store.open(store.uri)), found.changed) == (10, 10, ())


def test_an_object_store_reads_all_rows_again(tmp_path, edits):
    store = Store.create(f"file-object-store://{tmp_path}/s")
    picture = edits.parent / "pictures" / "3-after.png"
    data = picture.read_bytes()
    picture.unlink()
    assert import_source(store, source(edits)).skipped == {"missing picture file": 1}
    picture.write_bytes(data)
    found = again(store, edits)
    assert (found.added, found.skipped, len(Store.open(store.uri))) == (1, {}, 10)


def test_other_conditions_are_another_import_of_the_same_rows(store, edits):
    found = again(store, edits, accepted_licences=["MIT"])
    assert (found.accepted, found.skipped) == (0, {KNOWN: 10})


def test_what_is_remembered_may_be_lost(store, edits):
    for file in (Path(store.uri) / "imports").iterdir():
        file.unlink()
    found = again(store, edits)
    assert (found.added, found.changed, found.skipped) == (0, (), {})
