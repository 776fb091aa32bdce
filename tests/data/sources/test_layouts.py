"""What the published layouts give, and what `map`, constants, root, tars and the cache of the hub read beside them."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archives import tarred
from support.edit_files import jsonl_folder, picture_bytes, write_lines
from support.made_layouts import LAYOUTS, save
from support.stored_content import content_hash

from tagmoe.data.export import export
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.data.sources.places import Folder
from tagmoe.data.sources.registry import open_source
from tagmoe.data.sources.webdataset import WebdatasetSource
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError

MAP = {"instruction": "text", "source": "before", "target": "after"}


def records(source) -> list[Record]:
    return [record for row in source.rows() for record in row.records]


def reasons(source) -> list[str]:
    return [reason for row in source.rows() for reason in row.skipped]


def published(kind: str, folder: Path) -> list[Record]:
    LAYOUTS[kind][1](folder)
    return records(open_source(kind, folder))


def test_pico_banana(tmp_path):
    found = published("pico-banana", tmp_path)
    talk = [record for record in found if record.turn]
    assert [(record.turn, record.instruction) for record in talk] == [(1, "warmer"), (2, "closer"), (3, "as a comic")]
    assert len({record.root for record in talk}) == 1
    assert talk[1].images[0].data == talk[0].target.data
    (pair,) = [record for record in found if any(picture.role == "rejected" for picture in record.images)]
    assert [picture.role for picture in pair.images] == ["source", "rejected", "rejected"]
    assert [picture.role for picture in pair.inputs] == ["source"]
    assert (pair.instructions, pair.native_task) == (("Make car 10 blue",), "Change an object's attribute")


def test_a_store_in_the_folder_of_a_set_is_none_of_its_files(tmp_path):
    LAYOUTS["pico-banana"][1](tmp_path)
    store = Store.create(tmp_path / "store")
    first = import_source(store, open_source("pico-banana", tmp_path), accepted_licences=["CC-BY-NC-ND-4.0"])
    assert first.skipped_file is not None
    again = import_source(store, open_source("pico-banana", tmp_path), accepted_licences=["CC-BY-NC-ND-4.0"])
    assert (again.rows, again.skipped) == (first.rows, first.skipped)


def test_sharegpt_4o_image_and_opengpt_4o_image(tmp_path):
    found = published("sharegpt-4o-image", tmp_path)
    assert [[picture.role for picture in record.images] for record in found] == [
        ["source"],
        ["source", "reference"],
        ["source"],
        [],
    ]
    found = published("opengpt-4o-image", tmp_path / "open")
    assert [len(record.images) for record in found] == [1, 1, 0, 0]


def test_seed_data_edit(tmp_path):
    found = published("seed-data-edit", tmp_path)
    assert [(record.instruction, record.turn) for record in found[-2:]] == [("add a hat", 1), ("now remove it", 2)]


def test_gpt_image_edit_and_nhr_edit(tmp_path):
    found = published("gpt-image-edit", tmp_path / "gpt")
    assert [record.instructions for record in found] == [(), ("hat",), ()]
    assert found[0].caption_source == "a head 0"
    found = published("nhr-edit", tmp_path / "nhr")
    assert [len(record.instructions) for record in found] == [2, 0, 2]
    assert found[0].native_task == "Add"


def test_imgedit_scaleedit_and_x2edit(tmp_path):
    found = published("imgedit", tmp_path / "imgedit")
    assert [(record.native_task, record.turn) for record in found] == [
        ("remove", None),
        ("remove", None),
        ("version_backtracking", 1),
        ("version_backtracking", 2),
        ("version_backtracking", 3),
    ]
    found = published("scaleedit", tmp_path / "scaleedit")
    assert found[0].quality == {"instruction_following": 3, "editing_consistency": 2, "generation_quality": 3}
    assert len({record.id for record in found}) == 4
    found = published("x2edit", tmp_path / "x2edit")
    assert [(record.native_task, record.languages) for record in found] == [
        ("text_change", ("en",)),
        ("style", ("en", "zh")),
        ("remove", ("en",)),
    ]
    assert found[1].instructions == ("\u6f2b\u753b",)


# files of other names and forms


def rows_of(folder: Path, count: int = 3) -> list[dict]:
    return [
        {
            "text": f"edit {number}",
            "before": save(folder, f"p/{number}a.png", 2 * number),
            "after": save(folder, f"p/{number}b.png", 2 * number + 1),
        }
        for number in range(count)
    ]


FORMS = {
    "x.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "x.json": json.dumps,
    "indented.json": lambda rows: json.dumps(rows, indent=4),
    "lines.json": lambda rows: "\n".join(map(json.dumps, rows)),
    "object.json": lambda rows: json.dumps({"info": {"version": 1}, "data": rows}),
    "by-id.json": lambda rows: json.dumps({f"r{number}": row for number, row in enumerate(rows)}),
    "bom.json": lambda rows: "\ufeff" + json.dumps(rows),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_every_form_of_json(tmp_path, name, zipped, chunk, monkeypatch):
    """A small chunk ends within the first object; a large one holds the whole file."""
    monkeypatch.setattr("tagmoe.data.sources.json_rows.CHUNK", chunk)
    text = FORMS[name](rows_of(tmp_path)).encode()
    file = tmp_path / (name + ".gz" * zipped)
    file.write_bytes(gzip.compress(text) if zipped else text)
    source = JsonlSource(file, map=MAP)
    rows = list(source.rows())
    assert [row.records[0].instruction for row in rows] == ["edit 0", "edit 1", "edit 2"]
    assert len(source) == 3
    assert [row.records for row in source.rows(rows[0].next)] == [row.records for row in rows[1:]]


@pytest.mark.parametrize("text", ['[{"text": "x"}, {"text"', "[{} {}", '[{"a": 1}] trailing', "[1, 2]", "[]"])
def test_a_broken_array_is_an_error_of_its_file(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    source = JsonlSource(tmp_path / "x.json", map=MAP, licence="MIT")
    if text.endswith("]"):
        assert all(reasons(source))
    elif text.endswith("trailing"):
        assert len(reasons(source)) == 1
    else:
        with pytest.raises(DataError, match=r"x\.json.*is damaged"):
            reasons(source)


def test_base64_data_addresses_and_bytes_with_a_path(tmp_path):
    text = base64.b64encode(picture_bytes(1)).decode()
    lines = [
        {"text": "a", "before": text, "after": f"data:image/png;base64,{text}"},
        {"text": "b", "before": {"bytes": text, "path": "x.png"}, "after": {"path": save(tmp_path, "x.png", 3)}},
        {"text": "c", "before": "A" * 200, "after": text},
    ]
    source = JsonlSource(write_lines(tmp_path / "x.jsonl", lines), map=MAP)
    first, second = records(source)
    assert first.images[0].data == first.target.data == second.images[0].data == picture_bytes(1)
    assert second.target.data == (tmp_path / "x.png").read_bytes()
    assert reasons(source) == ["no picture"]


def test_wordings_by_language_lists_and_constants(tmp_path):
    (row,) = rows_of(tmp_path, 1)
    lines = [
        row | {"text": ["one", " ", "two", "one"]},
        row | {"text": {"en": "cat", "zh": "\u732b"}},
        row | {"text": "cat", "chinese": "\u732b", "round": "2"},
    ]
    options = {"map": MAP | {"instruction.zh": "chinese", "turn": "round"}, "constants": {"native_task": "swap"}}
    found = records(JsonlSource(write_lines(tmp_path / "x.jsonl", lines), **options))
    assert [(record.instruction, record.instructions, record.languages) for record in found] == [
        ("one", ("two",), ()),
        ("cat", ("\u732b",), ("en", "zh")),
        ("cat", ("\u732b",), ("", "zh")),
    ]
    assert [record.native_task for record in found] == ["swap"] * 3
    assert [record.turn for record in found] == [None, None, 2]


def test_optional_pictures_may_be_null_and_control_maps_have_a_role(tmp_path):
    (row,) = rows_of(tmp_path, 1)
    lines = [row | {"depth": None, "worse": ""}, row | {"depth": row["before"], "worse": [row["after"]]}]
    lines.append(row | {"before": None})
    roles = MAP | {"control": "depth", "rejected": "worse", "mask": "nowhere"}
    source = JsonlSource(write_lines(tmp_path / "x.jsonl", lines), map=roles)
    assert [[picture.role for picture in record.images] for record in records(source)] == [
        ["source"],
        ["source", "control", "rejected"],
    ]
    assert reasons(source) == ["no source picture"]


def test_names_in_names_and_what_is_not_read(tmp_path):
    (row,) = rows_of(tmp_path, 1)
    nested = {"turns": [{"said": row["text"], "in": row["before"]}], "out": {"image": row["after"]}, "width": 8}
    source = JsonlSource(
        write_lines(tmp_path / "x.jsonl", [nested]),
        map={"instruction": "turns.0.said", "source": "turns.0.in", "target": "out.image"},
    )
    assert len(records(source)) == 1
    assert source.unused == {"width": 1}
    (tmp_path / "README.md").write_text("read me")
    assert JsonlSource(tmp_path, licence="MIT").ignored == ("README.md",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map": {"instruction": "a"}}, "nothing of the target"),
        ({"map": {"target": "a"}}, "nothing of the instruction"),
        ({"map": {"instruction": "a", "target": "b", "colour": "c"}}, "names nothing of a record"),
        ({"map": MAP, "constants": {"colour": "red"}}, "--constant colour"),
        ({"map": MAP, "constants": {"instruction": "x"}}, "both say what 'instruction' is"),
        ({"root": "none"}, "is no folder and no tar"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        JsonlSource(jsonl_folder(tmp_path, 1), **options)


# places


def test_pictures_below_another_root_or_in_a_tar(tmp_path):
    rows = rows_of(tmp_path / "pictures")
    (tmp_path / "rows").mkdir()
    file = write_lines(tmp_path / "rows" / "x.jsonl", rows)
    assert reasons(JsonlSource(file, map=MAP)) == ["missing picture file"] * 3
    whole = records(JsonlSource(file, map=MAP, root=tmp_path / "pictures"))
    assert len(whole) == 3
    members = {
        name: (tmp_path / "pictures" / name).read_bytes() for row in rows for name in (row["before"], row["after"])
    }
    tar = tarred(tmp_path / "all.tar", {f"./{name}": data for name, data in members.items()})
    assert records(JsonlSource(file, map=MAP, root=tar)) == whole


def test_the_cache_of_the_hub_is_links_into_its_blobs(tmp_path):
    cache = tmp_path / "datasets--a--b"
    snapshot, blobs = cache / "snapshots" / "abc", cache / "blobs"
    blobs.mkdir(parents=True)
    (snapshot / "p").mkdir(parents=True)
    for number in range(2):
        (blobs / str(number)).write_bytes(picture_bytes(number))
        (snapshot / "p" / f"{number}.png").symlink_to(f"../../../blobs/{number}")
    line = {"text": "x", "before": "p/0.png", "after": "p/1.png"}
    (blobs / "rows").write_text(json.dumps(line))
    (snapshot / "x.jsonl").symlink_to("../../blobs/rows")
    assert len(records(JsonlSource(snapshot, map=MAP))) == 1
    assert len(records(JsonlSource(snapshot / "x.jsonl", map=MAP))) == 1
    assert len(records(open_source("jsonl", cache, {"map": MAP}))) == 1
    (cache / "snapshots" / "older").mkdir()
    with pytest.raises(UsageError, match="2 snapshots"):
        open_source("jsonl", cache, {"map": MAP})
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    assert len(records(open_source("jsonl", cache, {"map": MAP}))) == 1
    (tmp_path / "secret.png").write_bytes(picture_bytes(5))
    (snapshot / "p" / "0.png").unlink()
    (snapshot / "p" / "0.png").symlink_to(tmp_path / "secret.png")
    assert reasons(JsonlSource(snapshot, map=MAP)) == ["path of a picture outside the folder"]


def test_what_a_name_may_lead_to(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "p", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(picture_bytes(1))
    os.mkfifo(root / "pipe.png")
    links = {"within": "p/a.png", "chain": "within", "out": outside / "a.png", "out-and-in": tmp_path / "back"}
    links |= {"folder": "p", "folder-out": outside, "loop": "loop", "broken": "p/none.png"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "back").symlink_to(root / "p" / "a.png")
    place = Folder(root)
    within = ("p/a.png", "./p//a.png", "p/../p/a.png", "within", "chain", "folder/a.png", "folder/../p/a.png")
    for name in (*within, "out-and-in", str(root / "p" / "a.png")):
        assert place.read(name) == picture_bytes(1), name
        assert place.file(name) == str(root.resolve() / "p" / "a.png")
    outside_names = (
        "out",
        "folder-out/a.png",
        "../outside/a.png",
        str(outside / "a.png"),
        "p/../../outside/a.png",
        "..",
    )
    for name in outside_names:
        with pytest.raises(UnusableRow, match="outside the folder"):
            place.read(name)
        assert place.file(name) is None
    for name, reason in {
        "none.png": "missing",
        "none/a.png": "missing",
        "broken": "missing",
        "p": "missing",
        "p/": "missing",
        ".": "missing",
        "pipe.png": "missing",
        "p/a.png/b": "cannot be read",
        "loop": "cannot be read",
        "a" * 300: "cannot be read",
        "a\0b": "bad path",
        "\ud800": "bad path",
    }.items():
        with pytest.raises(UnusableRow, match=reason):
            place.read(name)


def test_parquet_with_paths_base64_and_lists(tmp_path):
    rows = rows_of(tmp_path)
    rows[1]["after"] = base64.b64encode(picture_bytes(9)).decode()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    source = ParquetSource(tmp_path / "x.parquet", map=MAP, constants={"native_task": "swap"})
    found = records(source)
    assert [record.instruction for record in found] == ["edit 0", "edit 1", "edit 2"]
    assert found[1].target.data == picture_bytes(9)
    assert [Path(file).name for file in next(source.rows()).files] == ["x.parquet", "0a.png", "0b.png"]
    assert ParquetSource(tmp_path / "x.parquet", map={"instruction": "text", "target": "after"}).unused == {"before": 3}


# tars


def test_an_export_in_tars_comes_back_as_the_same_records(tmp_path):
    store = Store.create(tmp_path / "s")
    import_source(store, JsonlSource(jsonl_folder(tmp_path / "e", 7), licence="MIT"))
    (tmp_path / "tars").mkdir()
    export(store, tmp_path / "tars", "webdataset", shard_bytes=1000)
    source = WebdatasetSource(tmp_path / "tars")
    assert source.licence.name == "MIT"
    again = Store.create(tmp_path / "again")
    assert import_source(again, source).accepted == 7
    assert content_hash(again) == content_hash(store)
    rows = list(source.rows())
    assert list(source.rows(3)) == rows[3:]
    assert source.unused == {}


def test_tars_of_others_are_mapped(tmp_path):
    members = {}
    for number in range(3):
        members[f"a/{number}.input.png"] = picture_bytes(2 * number)
        members[f"a/{number}.output.png"] = picture_bytes(2 * number + 1)
        members[f"a/{number}.txt"] = f" edit {number}\n".encode()
    members["a/2.output.png"] = b""
    file = tarred(tmp_path / "x.tar", members)
    (tmp_path / "list.txt").write_text("x")
    source = WebdatasetSource(tmp_path, map={"instruction": "txt", "source": "input", "target": "output.png"})
    assert [(record.instruction, record.origin) for record in records(source)] == [
        ("edit 0", "x.tar:a/0"),
        ("edit 1", "x.tar:a/1"),
    ]
    assert reasons(source) == ["empty picture"]
    assert source.unused == {}
    other = WebdatasetSource(tmp_path, map={"instruction": "txt", "target": "output.png"})
    assert len(records(other)) == 2
    assert other.unused == {"input.png": 3}
    assert source.ignored == ("list.txt",)
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(DataError, match=r"x\.tar.*no plain tar"):
        WebdatasetSource(tmp_path, map={"instruction": "txt", "target": "output"}).rows().__next__()


def test_an_older_store_gets_the_new_columns_when_it_is_written(tmp_path):
    store = Store.create(tmp_path / "s")
    import_source(store, JsonlSource(jsonl_folder(tmp_path / "e", 2), licence="MIT"))
    # A store of before has neither.
    store._table.drop_columns(["turn", "languages"])
    old = Store.open(tmp_path / "s")
    assert old.records([0])[0].turn is None
    assert import_source(old, JsonlSource(jsonl_folder(tmp_path / "e", 3), licence="MIT")).added == 1
    assert {"turn", "languages"} <= set(Store.open(tmp_path / "s").columns)
