"""Rows of Parquet files from any position: what lies before is not read, and files that are wrong are named."""

from __future__ import annotations

import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_published import (
    IMAGE,
    IP2P,
    MAGICBRUSH,
    OMNIEDIT,
    SUBJECTS200K,
    ULTRAEDIT,
    image_of,
    ip2p_row,
    write_shards,
)

from tagmoe.data.sources.instruct_pix2pix import InstructPix2Pix
from tagmoe.data.sources.parquet_rows import Column, ParquetRows, split_in_name
from tagmoe.data.sources.registry import open_source
from tagmoe.errors import DataError

NUMBER = [Column("number", "number")]


def numbers(path, values, group=2):
    pq.write_table(pa.table({"number": pa.array(values, pa.int64())}), path, row_group_size=group)


def spoil(path, group):
    """Overwrite the data of one row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)


@given(
    files=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 25)), min_size=1, max_size=4), start=st.integers(0, 170)
)
@settings(max_examples=25, deadline=None)
def test_any_start_gives_the_rest_of_any_files(tmp_path_factory, files, start):
    folder = tmp_path_factory.mktemp("rows")
    total = 0
    for index, (count, group) in enumerate(files):
        numbers(folder / f"{index}.parquet", range(total, total + count), group)
        total += count
    rows = ParquetRows(folder, NUMBER)
    found = list(rows.read(start))
    assert len(rows) == total
    assert [row.values["number"] for row in found] == list(range(start, total))
    assert [row.next for row in found] == list(range(start + 1, total + 1))


def test_row_groups_and_files_before_the_start_are_not_read(tmp_path):
    numbers(tmp_path / "a.parquet", range(6))
    numbers(tmp_path / "b.parquet", range(6, 14))
    spoil(tmp_path / "a.parquet", 0)
    spoil(tmp_path / "b.parquet", 1)
    rows = ParquetRows(tmp_path, NUMBER)
    with pytest.raises(DataError, match=r"a\.parquet.*damaged"):
        [row.values for row in rows.read(0)]
    assert [row.values["number"] for row in islice(rows.read(3), 5)] == [3, 4, 5, 6, 7]
    assert [row.values["number"] for row in rows.read(10)] == [10, 11, 12, 13]


def test_a_split_that_is_left_out_is_numbered_and_not_read(tmp_path):
    numbers(tmp_path / "dev-00000-of-00001.parquet", range(3))
    numbers(tmp_path / "train-00000-of-00001.parquet", range(3, 5))
    spoil(tmp_path / "dev-00000-of-00001.parquet", 0)
    rows = ParquetRows(tmp_path, NUMBER)
    found = list(rows.read(left_out=frozenset({"dev"})))
    assert [row.next for row in found] == [1, 2, 3, 4, 5]
    assert [row.values.get("number") for row in found] == [None, None, None, 3, 4]


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-00262-1ab.parquet", "train"),
        ("data/dev-00000-of-00001.parquet", "dev"),
        ("data/test.parquet", "test"),
        ("dev_0.parquet", "dev"),
        ("default/train/0000.parquet", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("default/test/0000.parquet", "test"),
        ("data/FreeForm_12-00000-of-00002.parquet", ""),
        ("data/RegionBase-00046-of-00093.parquet", ""),
        ("testimony.parquet", ""),
    ],
)
def test_the_split_is_read_from_the_name(tmp_path, file, split):
    assert split_in_name(tmp_path / "set" / file, tmp_path / "set") == split


def test_a_folder_or_file_given_itself_tells_the_split(tmp_path):
    assert split_in_name(tmp_path / "dev" / "0.parquet", tmp_path / "dev") == "dev"
    assert split_in_name(tmp_path / "dev" / "0.parquet", tmp_path / "dev" / "0.parquet") == "dev"


def test_files_of_the_hub_are_ordered_by_name_and_hidden_folders_left_out(tmp_path):
    for index, name in enumerate(("b/0.parquet", "a.parquet", "b/10.parquet", ".cache/x.parquet", "notes.txt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        numbers(tmp_path / name, [index])
    assert [row.origin for row in ParquetRows(tmp_path, NUMBER).read()] == [
        "a.parquet:0",
        "b/0.parquet:0",
        "b/10.parquet:0",
    ]


def test_a_linked_snapshot_as_the_hub_keeps_it_is_read(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    numbers(tmp_path / "blobs" / "0a1b", [7])
    (tmp_path / "snapshot" / "train-00000-of-00001.parquet").symlink_to(tmp_path / "blobs" / "0a1b")
    assert [row.values for row in ParquetRows(tmp_path / "snapshot", NUMBER).read()] == [{"number": 7}]


def test_a_missing_column_is_named_with_its_file(tmp_path):
    columns = {name: kind for name, kind in IP2P.items() if name != "edited_image"}
    write_shards(tmp_path, "train", columns, [], shards=1)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet' has no column 'edited_image'") as error:
        InstructPix2Pix(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("edited_image", pa.string(), "1.png"),
        ("edit_prompt", pa.list_(pa.string()), ["a"]),
        ("original_image", pa.struct([("path", pa.string())]), {"path": "1.png"}),
        ("original_prompt", pa.int64(), 1),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, column, kind, value):
    write_shards(tmp_path, "train", IP2P | {column: kind}, [ip2p_row(0, **{column: value})], shards=1)
    with pytest.raises(DataError, match=f"column '{column}' of .* is "):
        InstructPix2Pix(tmp_path)


def test_one_wrong_shard_among_many_is_found_before_a_row_is_read(tmp_path):
    write_shards(tmp_path, "train", IP2P, [ip2p_row(0)], shards=3)
    (tmp_path / "data" / "train-00002-of-00003.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-00002-of-00003.*download it again"):
        InstructPix2Pix(tmp_path)


def test_a_cut_off_download_is_found_before_a_row_is_read(tmp_path):
    path = write_shards(tmp_path, "train", IP2P, [ip2p_row(number) for number in range(4)], shards=1)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged or no Parquet file"):
        InstructPix2Pix(tmp_path)


@pytest.mark.parametrize("kind", ["ultraedit", "omniedit", "subjects200k", "magicbrush", "instruct-pix2pix"])
def test_a_folder_without_parquet_and_a_file_of_another_set_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match="no Parquet file"):
        open_source(kind, tmp_path)
    numbers(tmp_path / "train.parquet", [1])
    with pytest.raises(DataError, match="has no column"):
        open_source(kind, tmp_path)


def test_plain_bytes_stand_for_a_picture(tmp_path):
    data = image_of(3)["bytes"]
    row = ip2p_row(0, original_image=data)
    write_shards(tmp_path, "train", IP2P | {"original_image": pa.binary()}, [row], shards=1)
    (found,) = InstructPix2Pix(tmp_path).rows()
    assert found.records[0].images[0].data == data


def test_a_text_that_is_no_utf8_costs_one_record(tmp_path):
    path = write_shards(tmp_path, "train", IP2P, [ip2p_row(number) for number in range(3)], shards=1)[0]
    table = pq.read_table(path)
    texts = pa.array([b"make it a dog", b"\xff\xfe", b"make it a cow"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("edit_prompt"), "edit_prompt", texts), path)
    rows = list(InstructPix2Pix(tmp_path).rows())
    assert [len(row.records) for row in rows] == [1, 0, 1]
    assert rows[1].skipped == ("no instruction",)
    assert rows[2].records[0].instruction == "make it a cow"


def test_a_changed_file_is_another_fingerprint(tmp_path):
    numbers(tmp_path / "a.parquet", range(4))
    before = ParquetRows(tmp_path, NUMBER).fingerprint()
    assert json.loads(json.dumps(before)) == before
    assert ParquetRows(tmp_path, NUMBER).fingerprint() == before
    numbers(tmp_path / "a.parquet", range(5))
    assert ParquetRows(tmp_path, NUMBER).fingerprint() != before


@pytest.mark.parametrize("columns", [IP2P, ULTRAEDIT, OMNIEDIT, SUBJECTS200K, MAGICBRUSH])
def test_the_files_made_here_are_read_by_datasets_as_the_published_ones(tmp_path, columns):
    path = write_shards(tmp_path, "train", columns, [], shards=1)[0]
    features = Features.from_arrow_schema(pq.read_schema(path))
    assert list(features) == list(columns)
    pictures = {name for name, kind in columns.items() if kind == IMAGE}
    assert {name for name, feature in features.items() if isinstance(feature, ImageFeature)} == pictures
