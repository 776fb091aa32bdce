"""JSONL and pairs: good rows come in with their bytes as they are, each bad one is counted by its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.edit_files import jsonl_folder, picture_bytes, write_lines

from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.pairs import PairsSource
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
        (line(instruction=[" ", 3]), "no instruction"),
        (line(instruction="\ud800"), "bad value of 'instruction'"),
        (line(output_image=None), "no target picture"),
        (line(output_image="none.png"), "missing picture file"),
        (line(output_image="zero\0.png"), "bad path of a picture"),
        (line(output_image="."), "missing picture file"),
        (line(output_image=7), "bad value of a picture"),
        (line(output_image="text.png"), "no picture"),
        (line(output_image="empty.png"), "empty picture"),
        (line(output_image="../b.png"), "path of a picture outside the folder"),
        (line(output_image="/etc/hostname"), "path of a picture outside the folder"),
        (line(output_image="link.png"), "path of a picture outside the folder"),
        (line(output_image="https://example.org/b.png"), "URL of a picture, and nothing is fetched"),
        (line(output_image="file:///etc/hostname"), "URL of a picture, and nothing is fetched"),
        (line(output_image="data:image/png;base64,AA"), "bad base64 of a picture"),
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
    monkeypatch.setattr("tagmoe.data.sources.json_rows.MAX_LINE", 200)
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
    monkeypatch.setattr("tagmoe.data.sources.jsonl._SAMPLE_ROWS", 100)
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
    assert PairsSource(folder).identity() != PairsSource(folder, instruction="x").identity()


def test_a_folder_without_pairs(tmp_path):
    (tmp_path / "before").mkdir()
    with pytest.raises(DataError, match="no folder 'after'"):
        PairsSource(tmp_path)


# the registry


def test_the_registry_refuses_what_a_kind_does_not_know(tmp_path):
    path = jsonl_folder(tmp_path, 1)
    assert open_source("jsonl", path, {"licence": "MIT"}).licence.name == "MIT"
    for kind, place, options, words in (
        ("json", path, {}, "no kind of source 'json'"),
        ("pairs", path, {"map": {}}, "no option 'map'; it has name, licence"),
        ("jsonl", None, {}, "give their path"),
        ("jsonl", tmp_path / "none", {}, "nothing at"),
    ):
        with pytest.raises(UsageError, match=words):
            open_source(kind, place, options)
    assert {"jsonl", "parquet", "pairs"} <= set(KINDS)
