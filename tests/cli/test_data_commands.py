"""`tagmoe data import | export | stats | view` on a small store: results, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.edit_files import jsonl_folder, picture_bytes


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    return jsonl_folder(tmp_path / "edits", 6)


@pytest.fixture
def store(tagmoe, edits: Path, tmp_path: Path) -> Path:
    assert tagmoe("data", "import", "jsonl", edits, tmp_path / "store", "--licence", "MIT").code == 0
    return tmp_path / "store"


def test_import_says_what_it_did(tagmoe, edits, tmp_path) -> None:
    edits.write_text(edits.read_text() + "rubbish\n")
    command = ("data", "import", "jsonl", edits, tmp_path / "s", "--licence", "MIT")
    first = tagmoe(*command, "--json")
    data = json.loads(first.out)
    assert (first.code, first.err) == (0, "")
    assert (data["accepted"], data["skipped"], data["rows"]) == (6, {"line that is no JSON": 1}, 7)
    assert (data["source"], data["licence"], data["records"], data["already"]) == ("jsonl", "MIT", 6, False)
    second = tagmoe(*command)
    assert second.out == f"{tmp_path / 's'}\n"
    again = second.err.splitlines()
    assert again[0] == "this source had been imported before; nothing was added"
    assert again[2:4] == ["1 skipped: 1 line that is no JSON", "  line that is no JSON: edits.jsonl:7"]
    assert again[4].startswith("  all of them: ")
    assert data["skipped_rows"] == [{"row": 7, "origin": "edits.jsonl:7", "reason": "line that is no JSON"}]


def test_import_options_reach_the_source(tagmoe, tmp_path) -> None:
    for side, number in (("before", 0), ("after", 1)):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        (tmp_path / "pairs" / side / "a.png").write_bytes(picture_bytes(number))
    words = ("--instruction", "make it red", "--name", "mine", "--licence", "CC-BY-NC-4.0")
    command = ("data", "import", "pairs", tmp_path / "pairs", tmp_path / "s", *words)
    tagmoe(*command).refused(2, "--accept-licence CC-BY-NC-4.0")
    assert not (tmp_path / "s").exists()
    assert tagmoe(*command, "--accept-licence", "CC-BY-NC-4.0").code == 0
    groups = json.loads(tagmoe("data", "stats", tmp_path / "s", "--json").out)["groups"]
    assert (groups["dataset"], groups["licence"]) == ({"mine": 1}, {"CC-BY-NC-4.0": 1})


def test_import_refuses_benchmark_pictures(tagmoe, edits, tmp_path) -> None:
    import hashlib

    (tmp_path / "hashes").write_text(hashlib.sha256(picture_bytes(3)).hexdigest())
    found = tagmoe(
        *("data", "import", "jsonl", edits, tmp_path / "s", "--licence", "MIT"),
        *("--benchmark", tmp_path / "hashes", "--json"),
    )
    assert json.loads(found.out)["skipped"] == {"benchmark picture": 1}


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("json", "{edits}", "{new}"), 2, ("'json'", "jsonl, parquet, webdataset, pairs")),
        (("jsonl", "{new}"), 2, ("takes PATH STORE",)),
        (("jsonl", "{edits}", "{new}", "more"), 2, ("takes PATH STORE",)),
        (("jsonl", "{edits}", "{new}"), 2, ("--licence NAME", "--accept-licence none")),
        (("jsonl", "{none}", "{new}", "--licence", "MIT"), 2, ("nothing at",)),
        (("jsonl", "{folder}", "{new}", "--licence", "MIT"), 1, ("no *.jsonl or *.json file",)),
        (("jsonl", "{edits}", "{new}", "--licence", "MIT", "--map", "a=b"), 2, ("--map a=", "nothing of a record")),
        (("jsonl", "{edits}", "{new}", "--licence", "MIT", "--set", "a=b"), 2, ("no option 'a'",)),
        (("jsonl", "{edits}", "{new}", "--set", "a"), 2, ("--set 'a'", "NAME=VALUE")),
        (("jsonl", "{edits}", "{new}", "--set", "a=b", "--set", "a=c"), 2, ("'a' twice",)),
        (("jsonl", "{edits}", "{new}", "--licence", "MIT", "--benchmark", "{edits}"), 2, ("Line 1", "SHA-256")),
        (("jsonl", "{edits}", "{edits}/s", "--licence", "MIT"), 1, ("cannot be made",)),
        (("parquet", "{edits}", "{new}"), 1, ("no Parquet file",)),
        (("pairs", "{folder}", "{new}"), 1, ("no folder 'before'",)),
    ],
)
def test_a_bad_import_is_one_sentence_and_makes_no_store(tagmoe, edits, tmp_path, words, code, parts) -> None:
    (tmp_path / "folder").mkdir()
    places = {"edits": edits, "new": tmp_path / "new", "none": tmp_path / "none", "folder": tmp_path / "folder"}
    tagmoe("data", "import", *(word.format(**places) for word in words)).refused(code, *parts)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "webdataset"])
def test_export(tagmoe, store, tmp_path, kind) -> None:
    command = ("data", "export", store, "--format", kind, "-o", tmp_path / "out")
    found = json.loads(tagmoe(*command, "--json").out)
    assert (found["records"], found["format"]) == (6, kind)
    assert found["files"] == sum(path.is_file() for path in (tmp_path / "out").rglob("*"))
    tagmoe(*command).refused(2, "--force")
    assert tagmoe(*command, "--force").code == 0


def test_an_export_that_fails_leaves_nothing(tagmoe, store, tmp_path, monkeypatch) -> None:
    command = ("data", "export", store, "-o", tmp_path / "out")
    tagmoe(*command, "--where", "licence = 'none'").refused(1, "has no record where licence = 'none'")
    tagmoe(*command, "--where", "colour = 3").refused(1, "cannot be read", "colour")
    tagmoe("data", "export", tmp_path / "none", "-o", tmp_path / "out").refused(2, "There is no store")
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if len(list(path.parents[1].rglob("*.png"))) >= 5:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    tagmoe(*command).refused(1, "No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edits", "store"]


@pytest.mark.slow
def test_stats(tagmoe, store, tmp_path) -> None:
    found = json.loads(tagmoe("data", "stats", store, "--json", "--plot", tmp_path / "a.svg").out)
    assert found["records"] == 6
    assert found["groups"]["size"] == {"8x6": 6}
    assert found["groups"]["tag"] == {"(not annotated)": 6}
    assert found["groups"]["task"] == {"(none given)": 6}
    assert sum(found["groups"]["split"].values()) == 6
    assert [note["accepted"] for note in found["imports"]] == [6]
    svg = (tmp_path / "a.svg").read_text()
    assert "records by size" in svg
    assert "8x6" in svg
    table = tagmoe("data", "stats", store).out
    assert f"{store}: 6 records" in table
    assert "  8x6         6  100.0%" in table.replace("           6", "         6")
    tagmoe("data", "stats", store, "--plot", tmp_path / "a.svg").refused(2, "--force")
    tagmoe("data", "stats", store, "--plot", tmp_path / "a.png").refused(2, ".svg")
    tagmoe("data", "stats", tmp_path / "none").refused(2, "no store")


def test_stats_count_tags_and_the_quarantine(tagmoe, store) -> None:
    import pyarrow as pa

    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with opened.writing():
        opened.declare([pa.field("quarantine", pa.list_(pa.string()))])
        (fragment,) = opened.fragments()
        tags = pa.array([[0, 6], [0], [], None, None, None], pa.list_(pa.int8()))
        found = pa.array([["truncated", "same"], ["same"], [], [], [], None], pa.list_(pa.string()))
        opened.fill(fragment, pa.table({"tags": tags, "quarantine": found}))
    groups = json.loads(tagmoe("data", "stats", store, "--json").out)["groups"]
    assert groups["tag"] == {"(not annotated)": 3, "local editing": 2, "object editing": 1}
    assert groups["quarantine"] == {"(sound)": 3, "same": 2, "(not checked)": 1, "truncated": 1}


def test_stats_of_an_empty_store(tagmoe, tmp_path) -> None:
    from tagmoe.data.store.store import Store

    Store.create(tmp_path / "s")
    found = tagmoe("data", "stats", tmp_path / "s", "--plot", tmp_path / "a.svg")
    assert found.code == 0
    assert found.out.startswith(f"{tmp_path / 's'}: 0 records")
    assert "no records" in (tmp_path / "a.svg").read_text()


def test_view(tagmoe, store, tmp_path) -> None:
    from tagmoe.data.store.store import Store

    record = Store.open(store).records([2])[0]
    found = tagmoe("data", "view", store, "--id", record.id[:12], "-o", tmp_path / "a.png", "--json")
    data = json.loads(found.out)
    assert (data["id"], data["instruction"], data["licence"]) == (record.id, "edit 2", "MIT")
    assert data["pictures"][1] == {"role": "target", "width": 8, "height": 6, "bytes": len(record.target.data)}
    with Image.open(tmp_path / "a.png") as sheet, Image.open(tmp_path / "edits/pictures/2-before.png") as source:
        # enlarged forty times, so that the middle of each square is the pixel
        for x, y in ((0, 0), (7, 5), (3, 2)):
            assert sheet.getpixel((12 + 40 * x + 20, 29 + 40 * y + 20)) == source.getpixel((x, y))
    tagmoe("data", "view", store, "--id", "xyz", "-o", tmp_path / "b.png").refused(2, "'xyz'")
    tagmoe("data", "view", store, "--id", "f" * 32, "-o", tmp_path / "b.png").refused(2, "no record")
    tagmoe("data", "view", store, "--id", record.id, "-o", tmp_path / "a.png").refused(2, "--force")


@pytest.mark.slow
def test_without_the_extra_the_install_line_is_named(tagmoe, store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    for words in (
        ("import", "jsonl", "a", "b"),
        ("export", store, "-o", tmp_path / "o"),
        ("stats", store),
        ("view", store, "--id", "a", "-o", tmp_path / "a.png"),
    ):
        tagmoe("data", *words).refused(3, "pip install 'tagmoe[data]'")
