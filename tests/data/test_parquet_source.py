"""Parquet and `save_to_disk`: foreign columns are mapped, any row can be the first, bad rows cost themselves only."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.edit_files import jsonl_folder, picture_bytes

from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.errors import DataError, UsageError


def image(number: int | None) -> dict | None:
    return None if number is None else {"bytes": picture_bytes(number), "path": None}


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FOREIGN = pa.schema(
    [("edit_prompt", pa.string()), ("before", IMAGE), ("region", IMAGE), ("after", IMAGE), ("score", pa.float64())]
)
MAP = {"instruction": "edit_prompt", "source": "before", "mask": "region", "target": "after", "quality.clip": "score"}


def foreign_file(path: Path, count: int, first: int = 0, group: int = 3) -> Path:
    rows = [
        {
            "edit_prompt": f"edit {number}",
            "before": image(2 * number),
            "region": image(number if number % 2 else None),
            "after": image(2 * number + 1),
            "score": number / 2,
        }
        for number in range(first, first + count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=FOREIGN), path, row_group_size=group)
    return path


def test_foreign_columns_are_mapped(tmp_path):
    path = foreign_file(tmp_path / "x.parquet", 2)
    rows = list(ParquetSource(path, map=MAP).rows())
    first, second = (row.records[0] for row in rows)
    assert [picture.role for picture in first.images] == ["source"]
    assert [picture.role for picture in second.images] == ["source", "mask"]
    assert second.images[0].data == picture_bytes(2)
    assert second.target.data == picture_bytes(3)
    assert (second.instruction, second.quality, second.origin) == ("edit 1", {"clip": 0.5}, "x.parquet:1")


@pytest.mark.parametrize("group", [1, 3, 40])
def test_any_row_of_several_files_can_be_the_first(tmp_path, group, monkeypatch):
    monkeypatch.setattr("tagmoe.data.sources.parquet_rows.BATCH_ROWS", 4)
    foreign_file(tmp_path / "data" / "b.parquet", 6, first=11, group=group)
    foreign_file(tmp_path / "data" / "a.parquet", 11, group=group)
    source = ParquetSource(tmp_path, map=MAP)
    rows = list(source.rows())
    assert [row.records[0].instruction for row in rows] == [f"edit {number}" for number in range(17)]
    assert [row.next for row in rows] == list(range(1, 18))
    assert len(source) == 17
    for start in range(18):
        assert list(source.rows(start)) == rows[start:]


def test_files_before_the_start_are_not_read(tmp_path):
    first = foreign_file(tmp_path / "a.parquet", 4, group=2)
    foreign_file(tmp_path / "b.parquet", 4, first=4)
    source = ParquetSource(tmp_path, map=MAP)
    wanted = [row.records[0].id for row in source.rows(2)]
    # the second row group is behind the first, whose pages are made unreadable here
    data = bytearray(first.read_bytes())
    group = pq.ParquetFile(first).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    start = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
    for at in range(start, start + sum(column.total_compressed_size for column in columns)):
        data[at] = 0
    first.write_bytes(data)
    assert [row.records[0].id for row in source.rows(2)] == wanted
    with pytest.raises(DataError, match="is damaged"):
        [row.records for row in source.rows()]


def test_bad_rows_of_parquet_are_counted(tmp_path):
    rows = [
        {"edit_prompt": None, "before": image(0), "after": image(1)},
        {"edit_prompt": "x", "before": None, "after": image(1)},
        {"edit_prompt": "x", "before": image(0), "after": None},
        {"edit_prompt": "x", "before": {"bytes": None, "path": "here.png"}, "after": image(1)},
        {"edit_prompt": "x", "before": {"bytes": b"text", "path": None}, "after": image(1)},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=FOREIGN), tmp_path / "x.parquet")
    found = [row.skipped for row in ParquetSource(tmp_path, map=MAP).rows()]
    assert found == [
        ("no instruction",),
        ("no source picture",),
        ("no target picture",),
        ("picture that is only named in the file",),
        ("no picture",),
    ]


def test_lists_of_pictures_and_plain_bytes(tmp_path):
    table = pa.table(
        {
            "text": ["x"],
            "pictures": pa.array([[picture_bytes(0), picture_bytes(1)]], pa.list_(pa.large_binary())),
            "after": pa.array([picture_bytes(2)], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetSource(tmp_path, map={"instruction": "text", "reference": "pictures", "target": "after"})
    [row] = source.rows()
    assert [(picture.role, picture.data) for picture in row.records[0].images] == [
        ("reference", picture_bytes(0)),
        ("reference", picture_bytes(1)),
    ]


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_of_save_to_disk(tmp_path, split):
    from datasets import Dataset, DatasetDict, Image

    made = Dataset.from_dict(
        {
            "edit_prompt": [f"edit {number}" for number in range(40)],
            "before": [image(2 * number) for number in range(40)],
            "after": [image(2 * number + 1) for number in range(40)],
        }
    )
    made = made.cast_column("before", Image()).cast_column("after", Image())
    whole = DatasetDict({"train": made, "test": made.select(range(3))}) if split else made
    whole.save_to_disk(tmp_path / "saved")
    source = ParquetSource(
        tmp_path / "saved", map={"instruction": "edit_prompt", "source": "before", "target": "after"}
    )
    rows = list(source.rows())
    assert len(source) == len(rows) == (43 if split else 40)
    assert rows[17].records[0].target.data == picture_bytes(35)
    for start in (1, 16, 39, 40):
        assert list(source.rows(start)) == rows[start:]


def test_a_saved_text_that_is_no_text_costs_its_own_row_only(tmp_path):
    broken = pa.array([b"good", b"\xff", b"also good"]).view(pa.string())
    table = pa.table({"text": broken, "after": pa.array([picture_bytes(0)] * 3, pa.binary())})
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    rows = ParquetSource(tmp_path, map={"instruction": "text", "target": "after"}).rows()
    assert [row.skipped for row in rows] == [(), ("no instruction",), ()]


def test_files_that_are_no_parquet_and_columns_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no Parquet file in"):
        ParquetSource(tmp_path)
    path = foreign_file(tmp_path / "x.parquet", 1)
    with pytest.raises(DataError, match=r"no column 'instruction', only edit_prompt, .*--map instruction=COLUMN"):
        ParquetSource(path)
    with pytest.raises(DataError, match="no column 'prompt', only"):
        ParquetSource(path, map={**MAP, "instruction": "prompt"})
    with pytest.raises(UsageError, match=r"--map text=\.\.\. names nothing"):
        ParquetSource(path, map={"text": "edit_prompt"})
    with pytest.raises(UsageError, match="nothing of the target"):
        ParquetSource(path, map={"instruction": "edit_prompt"})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        ParquetSource(path, map=MAP)


def test_a_damaged_folder_of_save_to_disk(tmp_path):
    options = {"map": {"instruction": "a", "target": "b"}}
    for state, words in (
        ("rubbish", "state.json' is damaged"),
        ("[1]", "state.json' is damaged"),
        ('{"_data_files": [{"name": "x"}]}', "state.json' is damaged"),
        ('{"_data_files": [{"filename": "../none.arrow"}]}', "saved/none.arrow' is damaged"),
    ):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / "state.json").write_text(state)
        with pytest.raises(DataError, match=words):
            ParquetSource(tmp_path / "saved", **options)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../.."]}')
    with pytest.raises(DataError, match="a split is no plain name"):
        ParquetSource(tmp_path / "saved", **options)
    (tmp_path / "saved" / "dataset_dict.json").unlink()
    with pa.OSFile(str(tmp_path / "saved" / "none.arrow"), "wb") as file, pa.ipc.new_stream(file, FOREIGN):
        pass
    with pytest.raises(DataError, match="no column 'a', only edit_prompt"):
        ParquetSource(tmp_path / "saved", **options)
    assert list(ParquetSource(tmp_path / "saved", map=MAP).rows()) == []


def test_fingerprints_tell_files_and_options_apart(tmp_path):
    path = jsonl_folder(tmp_path, 2)

    def both(source) -> dict:
        return {**source.identity(), **source.fingerprint()}

    found = [both(JsonlSource(path)), both(JsonlSource(path, licence="MIT"))]
    path.write_text(path.read_text().replace("edit 1", "edit 2"))
    found += [both(JsonlSource(path)), both(JsonlSource(jsonl_folder(tmp_path / "o", 2)))]
    foreign = foreign_file(tmp_path / "x.parquet", 1)
    found += [both(ParquetSource(foreign, map=MAP)), both(ParquetSource(foreign, name="n", map=MAP))]
    texts = [json.dumps(item, sort_keys=True) for item in found]
    assert len(set(texts)) == len(texts)
    assert json.dumps(both(ParquetSource(foreign, map=MAP)), sort_keys=True) == texts[4]
