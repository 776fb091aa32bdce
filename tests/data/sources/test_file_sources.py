"""JSONL, Parquet and pairs: good rows come in with their bytes as they are, each bad one is counted by its reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.edit_files import jsonl_folder, picture_bytes, write_lines

from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.pairs import PairsSource
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.data.sources.registry import KINDS, open_source
from tagmoe.data.store.record import TagProvenance
from tagmoe.errors import DataError, UsageError
from tagmoe.tags import TAG_NAMES

ID, ROOT = "0123456789abcdef" * 2, "ab" * 32


def folder_with(tmp_path: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture_bytes(number))
    return tmp_path


def only(source, start: int = 0):
    """The one record of the one row left, or the reason why there is none."""
    (row,) = source.rows(start)
    return row.records[0] if row.records else row.skipped[0]


# JSONL


def line(**fields) -> dict:
    return {"instruction": "edit", "input_images": ["a.png"], "output_image": "b.png", **fields}


def test_the_simplest_line(tmp_path):
    path = write_lines(folder_with(tmp_path, "a.png", "b.png") / "x.jsonl", [line(tags=["local editing"])])
    record = only(JsonlSource(path))
    assert (record.images[0].data, record.target.data) == (picture_bytes(0), picture_bytes(1))
    assert (record.images[0].role, record.images[0].width, record.target.height) == ("source", 8, 6)
    assert (record.tags, record.tag_provenance) == ((TAG_NAMES.index("local editing"),), None)
    assert (record.dataset, record.licence, record.origin) == ("jsonl", "none", "x.jsonl:1")


def test_all_fields_of_a_line(tmp_path):
    given = line(
        id=ID,
        dataset="mine",
        input_images=["a.png", "b.png", "c.png"],
        input_roles=["person", "garment", "mask"],
        instructions=["one", "two"],
        instruction_rewritten="three",
        caption_source="four",
        caption_target="five",
        native_task="swap",
        tags="Scope: local editing; Type: object editing",
        tag_provenance={"annotator": "me", "seed": 4},
        quality={"clip": 1, "none": None, "ssim": "inf"},
        licence="CC0-1.0",
        origin="there",
        root=ROOT,
        parent=ID[::-1],
        operation="inverse",
        unknown={"field": 1},
    )
    path = write_lines(folder_with(tmp_path, "a.png", "b.png", "c.png") / "x.jsonl", [given])
    record = only(JsonlSource(path, name="other", licence="MIT"))
    assert [picture.role for picture in record.images] == ["person", "garment", "mask"]
    assert (record.id, record.dataset, record.licence, record.origin) == (ID, "mine", "CC0-1.0", "there")
    assert (record.root, record.parent, record.operation) == (ROOT, ID[::-1], "inverse")
    assert (record.instructions, record.instruction_rewritten) == (("one", "two"), "three")
    assert record.quality == {"clip": 1.0, "ssim": float("inf")}
    assert (record.tags, record.tag_provenance) == ((0, 6), TagProvenance("me", seed=4))


def test_text_to_image_and_several_references(tmp_path):
    folder_with(tmp_path, "a.png", "b.png")
    lines = [line(input_images=[]), {"instruction": "x", "output_image": "b.png"}, line(input_images=["a.png"] * 3)]
    rows = list(JsonlSource(write_lines(tmp_path / "x.jsonl", lines)).rows())
    roles = [[picture.role for picture in row.records[0].images] for row in rows]
    assert roles == [[], [], ["source", "reference", "reference"]]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("not json", "line that is no JSON"),
        ('{"a": 1, "a": 2}', "line that is no JSON"),
        ("[" * 100_000, "line that is no JSON"),
        ("[1]", "line that is no JSON object"),
        (line(instruction=None), "no instruction"),
        (line(instruction=["a"]), "no instruction"),
        (line(instruction="\ud800"), "bad value of 'instruction'"),
        (line(output_image=None), "no target picture"),
        (line(output_image="none.png"), "missing picture file"),
        (line(output_image="zero\0.png"), "bad path of a picture"),
        (line(output_image="."), "missing picture file"),
        (line(output_image=7), "bad path of a picture"),
        (line(output_image="text.png"), "no picture"),
        (line(output_image="empty.png"), "empty picture"),
        (line(output_image="../b.png"), "path of a picture outside the folder"),
        (line(output_image="/etc/hostname"), "path of a picture outside the folder"),
        (line(output_image="link.png"), "path of a picture outside the folder"),
        (line(output_image="https://example.org/b.png"), "URL of a picture, and nothing is fetched"),
        (line(output_image="file:///etc/hostname"), "URL of a picture, and nothing is fetched"),
        (line(output_image="data:image/png;base64,AA"), "URL of a picture, and nothing is fetched"),
        (line(input_images="a.png"), "bad value of 'input_images'"),
        (line(input_roles=["source", "mask"]), "bad value of 'input_roles'"),
        (line(input_roles=["owner"]), "bad value of 'input_roles'"),
        (line(tags=["local edit"]), "unknown tag, or one given twice"),
        (line(tags=["local editing"] * 2), "unknown tag, or one given twice"),
        (line(tags=[3]), "bad value of 'tags'"),
        (line(tag_provenance={"seed": 1}), "bad value of 'tag_provenance'"),
        (line(tag_provenance={"annotator": "a", "seed": 2**70}), "bad value of 'tag_provenance'"),
        (line(quality=[1]), "bad value of 'quality'"),
        (line(quality={"a": "high"}), "bad value of 'quality'"),
        (line(root="abc"), "bad value of 'root'"),
        (line(parent=5), "bad value of 'parent'"),
        (line(operation="invert"), "bad value of 'operation'"),
        (line(instructions="one"), "bad value of 'instructions'"),
        (line(id=[1]), "bad value of 'id'"),
    ],
)
def test_a_bad_line_is_skipped_with_its_reason_and_the_next_one_comes_in(tmp_path, bad, reason):
    folder = tmp_path / "inside"
    folder.mkdir()
    folder_with(folder, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(picture_bytes(1))
    (folder / "text.png").write_text("this is text")
    (folder / "empty.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "b.png")
    rows = list(JsonlSource(write_lines(folder / "x.jsonl", [bad, line()])).rows())
    assert [row.skipped for row in rows] == [(reason,), ()]
    assert rows[1].records[0].origin == "x.jsonl:2"


def test_a_pipe_and_a_huge_file_are_not_read(tmp_path):
    folder_with(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as handle:
        handle.truncate(300 << 20)
    lines = [line(output_image="pipe.png"), line(output_image="huge.png")]
    rows = JsonlSource(write_lines(tmp_path / "x.jsonl", lines)).rows()
    assert [row.skipped for row in rows] == [("missing picture file",), ("picture file of more than 256 MB",)]


def test_a_line_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("tagmoe.data.sources.jsonl.MAX_LINE", 200)
    folder_with(tmp_path, "a.png", "b.png")
    path = write_lines(tmp_path / "x.jsonl", [line(instruction="x" * 1000), line()])
    assert [row.skipped for row in JsonlSource(path).rows()] == [("line that is no JSON",), ()]


def test_a_folder_of_jsonl_files_is_one_source_and_any_row_can_be_the_first(tmp_path):
    jsonl_folder(tmp_path, 3, name="b.jsonl")
    path = jsonl_folder(tmp_path, 2, name="a.jsonl")
    path.write_text("\n \n" + path.read_text())
    source = JsonlSource(tmp_path)
    rows = list(source.rows())
    assert [row.records[0].origin for row in rows] == ["a.jsonl:3", "a.jsonl:4", "b.jsonl:1", "b.jsonl:2", "b.jsonl:3"]
    assert len(source) == 7
    for number, row in enumerate(rows, 1):
        assert list(source.rows(row.next)) == rows[number:]


def test_the_size_of_large_files_is_estimated(tmp_path, monkeypatch):
    monkeypatch.setattr("tagmoe.data.sources.jsonl._SAMPLE_BYTES", 2000)
    source = JsonlSource(jsonl_folder(tmp_path, 200))
    assert 180 <= len(source) <= 220


def test_without_a_licence_given_the_first_line_says_what_must_be_accepted(tmp_path):
    folder_with(tmp_path, "a.png", "b.png")
    path = write_lines(tmp_path / "x.jsonl", ["", line(licence="CC-BY-NC-4.0"), line()])
    assert JsonlSource(path).licence.restricted
    assert [row.records[0].licence for row in JsonlSource(path).rows()] == ["CC-BY-NC-4.0", "none"]
    assert JsonlSource(path, licence="MIT").licence.name == "MIT"


def test_ids_come_from_the_content_and_never_clash(tmp_path):
    folder_with(tmp_path, "a.png", "b.png", "c.png")
    lines = [line(), line(id=1), line(id="1"), line(id=1, instruction="y"), line(id=1, input_images=["c.png"])]
    rows = list(JsonlSource(write_lines(tmp_path / "x.jsonl", lines)).rows())
    ids = [row.records[0].id for row in rows]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 4


# pairs


def pairs_folder(tmp_path: Path) -> Path:
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
    for number, name in enumerate(("a", "b.c", "d")):
        (tmp_path / "before" / f"{name}.png").write_bytes(picture_bytes(number))
        (tmp_path / "after" / f"{name}.jpg").write_bytes(picture_bytes(number + 10, "JPEG"))
    (tmp_path / "a.txt").write_text(" make it red \n")
    return tmp_path


def test_pairs(tmp_path):
    folder = pairs_folder(tmp_path)
    rows = list(PairsSource(folder, instruction="for all").rows())
    assert [row.records[0].instruction for row in rows] == ["make it red", "for all", "for all"]
    assert rows[1].records[0].images[0].data == picture_bytes(1)
    assert rows[1].records[0].target.data == picture_bytes(11, "JPEG")
    assert list(PairsSource(folder, instruction="for all").rows(2)) == rows[2:]
    assert [row.skipped for row in PairsSource(folder).rows()] == [(), ("no instruction",), ("no instruction",)]


def test_what_is_no_pair_is_counted(tmp_path):
    folder = pairs_folder(tmp_path)
    (folder / "before" / "alone.png").write_bytes(picture_bytes(0))
    (folder / "after" / "late.png").write_bytes(picture_bytes(0))
    (folder / "after" / "a.png").write_bytes(picture_bytes(0))
    (folder / "before" / "d.png").write_text("text")
    (folder / "b.c.txt").write_bytes(b"\xff")
    (folder / "before" / ".hidden").touch()
    rows = list(PairsSource(folder, instruction="x").rows())
    assert [row.skipped for row in rows] == [
        ("several pictures of one name",),
        ("no picture of this name in after",),
        ("text file that cannot be read",),
        ("no picture",),
        ("no picture of this name in before",),
    ]


def test_a_name_that_is_no_text_still_comes_in(tmp_path):
    folder = pairs_folder(tmp_path)
    for side in ("before", "after"):
        (folder / side / os.fsdecode(b"z\xff.png")).write_bytes(picture_bytes(5))
    *_, last = PairsSource(folder, instruction="x").rows()
    assert last.records[0].origin == "z\\udcff.png"
    assert PairsSource(folder).fingerprint() != PairsSource(folder, instruction="x").fingerprint()


def test_a_folder_without_pairs(tmp_path):
    (tmp_path / "before").mkdir()
    with pytest.raises(DataError, match="no folder 'after'"):
        PairsSource(tmp_path)


# Parquet


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
        list(source.rows())


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
    record = only(ParquetSource(tmp_path, map={"instruction": "text", "reference": "pictures", "target": "after"}))
    assert [(picture.role, picture.data) for picture in record.images] == [
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


# the registry


def test_the_registry_refuses_what_a_kind_does_not_know(tmp_path):
    path = jsonl_folder(tmp_path, 1)
    assert open_source("jsonl", path, {"licence": "MIT"}).licence.name == "MIT"
    for kind, place, options, words in (
        ("json", path, {}, "no kind of source 'json'"),
        ("jsonl", path, {"map": {}}, "no option 'map'; it has name, licence"),
        ("jsonl", None, {}, "give their path"),
        ("jsonl", tmp_path / "none", {}, "nothing at"),
    ):
        with pytest.raises(UsageError, match=words):
            open_source(kind, place, options)
    assert {"jsonl", "parquet", "pairs"} <= set(KINDS)


def test_fingerprints_tell_files_and_options_apart(tmp_path):
    path = jsonl_folder(tmp_path, 2)
    found = [JsonlSource(path).fingerprint(), JsonlSource(path, licence="MIT").fingerprint()]
    path.write_text(path.read_text().replace("edit 1", "edit 2"))
    found += [JsonlSource(path).fingerprint(), JsonlSource(jsonl_folder(tmp_path / "o", 2)).fingerprint()]
    foreign = foreign_file(tmp_path / "x.parquet", 1)
    found += [ParquetSource(foreign, map=MAP).fingerprint(), ParquetSource(foreign, name="n", map=MAP).fingerprint()]
    texts = [json.dumps(item, sort_keys=True) for item in found]
    assert len(set(texts)) == len(texts)
    assert json.dumps(ParquetSource(foreign, map=MAP).fingerprint(), sort_keys=True) == texts[4]
