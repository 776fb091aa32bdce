"""ICE-Bench from files of its published schema that the test makes: three layouts, and every fault of a row listed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from support.archives import write, zipped

from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.benchmarks.benchmark import prepare
from tagmoe.evaluate.benchmarks.cases import read_prepared
from tagmoe.evaluate.benchmarks.ice_bench import CONTROLS, PAPER_TASKS, TASKS, IceBench
from tagmoe.evaluate.benchmarks.registry import open_benchmark


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int, task: str = "Color Editing", **changes: object) -> dict[str, object]:
    made = {
        "ItemID": f"item-{number}",
        "Task": task,
        "SourceImage": "" if task == "Text2Image" else "images/source.png",
        "SourceMask": "images/mask.png" if task.startswith("Local") else "",
        "ReferenceImages": ["images/ref.png"] if "Reference" in task else [],
        "Instruction": f"do {number} with <REF_1>",
        "TargetCaption": "" if task == "Image Deblur" else "a caption",
    }
    return {**made, **changes}


PICTURES = {"source.png": png("red"), "mask.png": png("white"), "ref.png": png("blue")}


def files_of(rows: list[object], folder: str) -> dict[str, bytes]:
    lines = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in rows)
    return {
        f"{folder}/data.jsonl": lines.encode(),
        **{f"{folder}/images/{name}": data for name, data in PICTURES.items()},
    }


ALL = [row(number, task) for number, task in enumerate(TASKS)]


def from_root(rows: list[dict[str, object]], folder: str) -> list[dict[str, object]]:
    """The same rows with paths of pictures from the root instead of from data.jsonl."""

    def moved(value: object) -> object:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return f"{folder}/{value}" if isinstance(value, str) and value.startswith("images/") else value

    return [{name: moved(value) for name, value in one.items()} for one in rows]


def layouts(root: Path) -> dict[str, Path]:
    plain, rooted = files_of(ALL, "dataset"), files_of(from_root(ALL, "data"), "data")
    at_root = {name.removeprefix("data/"): data for name, data in rooted.items()}
    (root / "zip in folder").mkdir()
    zipped(root / "zip in folder" / "data.zip", rooted)
    return {
        "dataset/data.jsonl": write(root / "a", plain),
        "data/data.jsonl": write(root / "b", rooted),
        "the folder data itself": write(root / "c", at_root),
        "a zip": zipped(root / "dataset.zip", plain),
        "a folder with a zip": root / "zip in folder",
        "a snapshot of the hub": write(root / "d" / "snapshot", {**plain, "README.md": b"text"}),
    }


def test_every_layout_gives_the_same_cases(tmp_path: Path) -> None:
    digests = {}
    for name, path in layouts(tmp_path).items():
        out = tmp_path / f"out {name.replace('/', ' ')}"
        out.mkdir()
        manifest = prepare(IceBench(path), out)
        assert (manifest.left_out, manifest.cases) == ((), 31), name
        digests[name] = manifest.digest
    assert len(set(digests.values())) == 1, digests


def test_cases_hold_what_an_editor_and_a_metric_need(tmp_path: Path) -> None:
    prepare(IceBench(write(tmp_path / "in", files_of(ALL, "dataset"))), tmp_path)
    prepared = read_prepared(tmp_path)
    by_task = {case.task: case for case in prepared.cases}
    assert list(by_task) == list(TASKS)
    assert len(PAPER_TASKS) == 26
    assert sum(case.meta["in_paper"] for case in prepared.cases) == 26
    assert {task: case.meta["control"] for task, case in by_task.items() if "control" in case.meta} == CONTROLS
    text = by_task["Text2Image"]
    assert (text.source, text.refs, text.target) == (None, (), None)
    local = by_task["Local Text Render"]
    assert local.mask is not None
    assert prepared.picture(local.mask).getpixel((0, 0)) == (255, 255, 255)
    style = by_task["Style Reference Editing"]
    assert [prepared.picture(name).getpixel((0, 0)) for name in (style.source or "", *style.refs)] == [
        (255, 0, 0),
        (0, 0, 255),
    ]
    assert by_task["Image Deblur"].caption_origin is None
    assert by_task["Color Editing"].target_caption == "a caption"
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 3, "each picture is kept once"


def test_rows_that_are_no_case_are_listed_and_the_rest_is_prepared(tmp_path: Path) -> None:
    rows = [
        row(0),
        row(1, "Time Travel"),
        row(0, Instruction="again"),
        row(3, SourceImage="images/none.png"),
        row(4, SourceImage="../../secret.png"),
        row(5, SourceMask="images/broken.png"),
        row(6, ReferenceImages="images/ref.png"),
        {name: value for name, value in row(7).items() if name != "TargetCaption"},
        "no json",
        row(9, Instruction="caf\u00e9\u2028"),
    ]
    files = {**files_of(rows, "data"), "data/images/broken.png": png("red")[:40], "secret.png": png("red")}
    manifest = prepare(IceBench(write(tmp_path / "in" / "deep", files)), tmp_path)
    assert [case.id for case in read_prepared(tmp_path).cases] == ["item-0", "item-9"]
    reasons = {one.row: (one.id, one.reason) for one in manifest.left_out}
    assert reasons[2] == ("item-1", "its task 'Time Travel' is unknown")
    assert reasons[3] == ("item-0", "its id stands twice in the files")
    assert reasons[4] == ("item-3", "SourceImage: there is no file 'images/none.png'")
    assert reasons[5] == ("item-4", "SourceImage: there is no file '../../secret.png'")
    assert reasons[6][1].startswith("SourceMask: ")
    assert reasons[7] == ("item-6", "its ReferenceImages is of another type")
    assert reasons[8] == ("item-7", "it has no TargetCaption")
    assert reasons[9] == ("", "it has no id")
    assert len(reasons) == 8


def test_files_that_are_not_ice_bench_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"should hold one data.jsonl of ICE-Bench, and holds none"):
        IceBench(tmp_path / "empty")
    both = write(tmp_path / "both", {**files_of(ALL, "data"), **files_of(ALL, "dataset")})
    with pytest.raises(DataError, match=r"holds 'data/data.jsonl' and 'dataset/data.jsonl'"):
        IceBench(both)
    (tmp_path / "torn.zip").write_bytes(zipped(tmp_path / "whole.zip", files_of(ALL, "data")).read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read as a zip"):
        IceBench(tmp_path / "torn.zip")
    whole = (tmp_path / "whole.zip").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    # A damaged list of contents: a version that nobody has, and a name that is no text though it is said to be.
    versioned = whole[: entry + 6] + b"\xff\xff" + whole[entry + 8 :]
    named = whole[: entry + 8] + b"\x00\x08" + whole[entry + 10 : entry + 46] + b"\xff" + whole[entry + 47 :]
    for damaged in (versioned, named):
        (tmp_path / "torn.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a zip"):
            IceBench(tmp_path / "torn.zip")
    with pytest.raises(UsageError, match="There is no folder or zip"):
        IceBench(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--accept-licence"):
        open_benchmark("ice-bench", both)
    with pytest.raises(UsageError, match="with --from"):
        open_benchmark("ice-bench", None, accepted=True)
    with pytest.raises(UsageError, match="reads no files"):
        open_benchmark("tagworld", both)
    with pytest.raises(UsageError, match="There is no benchmark 'ice'; give one of tagworld, ice-bench"):
        open_benchmark("ice", None)
