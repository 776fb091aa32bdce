"""DreamBench++ and ImgEdit-Bench from files of their published layout that the test makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.archives import tarred, write, zipped
from support.published_tables import png, prepared, reasons

from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.answers.ready import ReadyFolder
from tagmoe.evaluate.benchmarks.dreambench_plus import DreamBenchPlus
from tagmoe.evaluate.benchmarks.imgedit_bench import ImgEditBench
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.run_folder import RunFacts


def subject(name: str, prompts: int = 9) -> bytes:
    return "\n".join([name, *(f"{name} {number}" for number in range(prompts)), "", ""]).encode()


DREAMBENCH = {
    "data/images/animal/00.jpg": png("red"),
    "data/images/human/01.jpg": png("green"),
    "data/images/style/03.jpg": png("blue"),
    "data/captions/animal/00.txt": subject("Red Panda"),
    "data/captions/human/01.txt": subject("man", prompts=8),
    # Its picture is missing. A loader that pairs by order gives it the picture of the style after it.
    "data/captions/object/02.txt": subject("cup"),
    "data/captions/style/03.txt": subject("ink-wash"),
    "data/captions/plant/04.txt": subject("oak"),
    "__MACOSX/data/captions/style/03.txt": b"x",
}


@pytest.mark.parametrize("form", ["folder", "zip", "zip in folder"])
def test_dreambench_plus_pairs_pictures_and_prompts_by_their_paths(tmp_path: Path, form: str) -> None:
    if form == "folder":
        path = write(tmp_path / "in", {name: data for name, data in DREAMBENCH.items() if name.startswith("data")})
    else:
        file = zipped(tmp_path / "in" / "data.zip", DREAMBENCH)
        path = file if form == "zip" else file.parent
    found = prepared(DreamBenchPlus(path), tmp_path / "bench")
    assert found.manifest.tasks == {"animal": 9, "style": 9}
    first, style = found.cases[0], found.cases[9]
    assert (first.id, first.instruction) == ("live_subject_animal_00_red_panda/0_0", "Red Panda 0")
    assert (first.source, first.target_caption, first.caption_origin) == (None, "Red Panda 0", "prompt")
    assert style.id == "style_03_ink-wash/0_0"
    assert found.picture(style.refs[0]).getpixel((0, 0)) == (0, 0, 255)
    assert [case.meta["prompt"] for case in found.cases[:9]] == (
        ["photorealistic"] * 4 + ["style"] * 3 + ["imaginative"] * 2
    )
    told = reasons(found)
    assert told["human_01"] == "its text has 8 prompts, not 9"
    assert told["plant_04"] == "its category 'plant' is unknown"
    assert told["object_02_cup/8_0"] == "there is no picture 'data/images/object/02.jpg'"
    assert len(told) == 11
    for case in found.cases:
        write(tmp_path / "samples" / "tgt_image", {f"{case.id}.jpg": png()})
    answers = ReadyFolder(tmp_path / "samples" / "tgt_image")
    assert generate(found, answers, RunFacts.of(found, answers), tmp_path / "run").counts == {"ok": 18}


def test_files_that_are_not_dreambench_plus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no captions/\*\*/\*.txt of DreamBench"):
        DreamBenchPlus(write(tmp_path / "in", {"images/animal/00.jpg": png()}))
    with pytest.raises(DataError, match="cannot be read as a zip"):
        DreamBenchPlus(write(tmp_path / "torn", {"data.zip": b"PK"}) / "data.zip")
    with pytest.raises(UsageError, match="is a compressed tar; unpack it"):
        ImgEditBench(write(tmp_path / "packed", {"Benchmark.tar.gz": b"x"}) / "Benchmark.tar.gz")
    with pytest.raises(DataError, match="no plain tar"):
        ImgEditBench(write(tmp_path / "torn tar", {"Benchmark.tar": b"x" * 600}) / "Benchmark.tar")


BASIC = {
    "1082": {"id": "animal/0.jpg", "prompt": "make it darker", "edit_type": "adjust"},
    "673": {"id": "style/1.jpg", "prompt": "as a print", "edit_type": "style"},
    "7": {"id": "style/2.jpg", "prompt": "as a print", "edit_type": "style"},
    "8": {"id": "../../secret.jpg", "prompt": "as a print", "edit_type": "style"},
    "9": {"id": "animal/0.jpg", "prompt": "juggle", "edit_type": "juggle"},
    "10": {"id": "animal/0.jpg", "edit_type": "adjust"},
    "11": "no object",
}
IMAGES = {"Benchmark/singleturn/animal/0.jpg": png("red"), "Benchmark/singleturn/style/1.jpg": png("blue")}


@pytest.mark.parametrize("form", ["unpacked", "tar", "both"])
def test_imgedit_bench_joins_its_list_and_its_pictures(tmp_path: Path, form: str) -> None:
    root = write(tmp_path / "in", {"basic_edit.json": json.dumps(BASIC).encode()})
    if form != "tar":
        write(root, IMAGES)
    if form != "unpacked":
        tarred(root / "Benchmark.tar", IMAGES)
    found = prepared(ImgEditBench(root), tmp_path / "bench")
    assert [(case.id, case.task) for case in found.cases] == [("1082", "adjust"), ("673", "style")]
    assert found.picture(str(found.cases[1].source)).getpixel((0, 0)) == (0, 0, 255)
    assert reasons(found) == {
        "7": "there is no picture 'style/2.jpg'",
        "8": "its path '../../secret.jpg' leads out of the folder",
        "9": "its edit_type 'juggle' is unknown",
        "10": "it has no prompt",
        "11": "it has no edit_type",
    }


def test_imgedit_bench_tells_what_is_ambiguous_or_missing(tmp_path: Path) -> None:
    twice = {name.replace("singleturn", "hard"): data for name, data in IMAGES.items()}
    first = json.dumps({"673": BASIC["673"], "1082": {**BASIC["1082"], "id": "singleturn/animal/0.jpg"}}).encode()
    root = write(tmp_path / "in", {"basic_edit.json": first, **IMAGES, **twice})
    found = prepared(ImgEditBench(root), tmp_path / "bench")
    assert [case.id for case in found.cases] == ["1082"]
    assert reasons(found)["673"] == (
        "both 'Benchmark/hard/style/1.jpg' and 'Benchmark/singleturn/style/1.jpg' are its picture"
    )
    with pytest.raises(DataError, match=r"should hold one UGE_edit.json .* and holds none"):
        ImgEditBench(root, suite="uge")
    uge = {"1": {"id": "animal/0.jpg", "prompt": "remove the lemon"}}
    write(root, {"UGE/UGE_edit.json": json.dumps(uge).encode(), "x/UGE_edit.json": b"{}"})
    with pytest.raises(DataError, match=r"holds 'UGE/UGE_edit.json' and 'x/UGE_edit.json'"):
        ImgEditBench(root, suite="uge")
    (root / "x" / "UGE_edit.json").unlink()
    (root / "Benchmark" / "hard" / "animal" / "0.jpg").unlink()
    (case,) = prepared(ImgEditBench(root, suite="uge"), tmp_path / "uge").cases
    assert (case.task, case.split) == ("uge", "uge")
    write(root, {"UGE/UGE_edit.json": b'{"1": {}, "1": {}}'})
    with pytest.raises(DataError, match="a name occurs twice"):
        ImgEditBench(root, suite="uge")
    with pytest.raises(UsageError, match="The option suite is 'hard'"):
        ImgEditBench(root, suite="hard")
