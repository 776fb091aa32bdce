"""Bad input of `tagmoe eval`: counted by status, listed, exit code 1; the rest is scored."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.published_tables import json_lines, png

from tagmoe.evaluate.benchmarks.cases import CASES, MANIFEST

FEW = ("--draws", 100, "--pictures", 1)


def ice_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "ItemID": f"i{number}",
        "Task": "Color Editing",
        "SourceImage": f"images/{number}.png",
        "SourceMask": "",
        "ReferenceImages": [],
        "Instruction": "make it red",
        "TargetCaption": "a red thing",
    }
    return {**row, **changes}


@pytest.fixture
def ice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five good rows of ICE-Bench, and three that are none, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        Path("ice/data/images").mkdir(parents=True, exist_ok=True)
        Path(f"ice/data/images/{number}.png").write_bytes(png((30 * number, 90, 40), (40, 30)))
    Path("ice/data/images/7.png").write_bytes(png()[:40])
    rows = [*map(ice_row, range(5)), ice_row(5, Task="Time Travel"), ice_row(0), ice_row(7)]
    json_lines(Path("ice/data/data.jsonl"), rows)
    return Path("ice")


@pytest.fixture
def bench(tagmoe, ice: Path) -> Path:
    made = tagmoe("eval", "prepare", "ice-bench", "--from", ice, "--accept-licence", "--out", "bench", "--json")
    assert made.code == 1, "rows that are no case"
    return Path("bench")


def test_an_unknown_task_a_double_id_and_a_damaged_picture_are_listed_and_the_rest_is_prepared(
    tagmoe, ice: Path
) -> None:
    made = tagmoe("eval", "prepare", "ice-bench", "--from", ice, "--accept-licence", "--out", "bench", "--json")
    assert made.code == 1
    data = json.loads(made.out)
    assert (data["cases"], data["tasks"]) == (5, {"Color Editing": 5})
    reasons = {(one["row"], one["id"]): one["reason"] for one in data["left_out"]}
    assert reasons[6, "i5"] == "its task 'Time Travel' is unknown"
    assert reasons[7, "i0"] == "its id stands twice in the files"
    assert reasons[8, "i7"].startswith("SourceImage: ")
    for words in ("3 rows left out", "row 6 i5: left out (its task 'Time Travel' is unknown)", "row 7 i0"):
        assert words in made.err
    tagmoe("eval", "generate", "bench", "--editor", "copy", "--tasks", "Time Travel", "--out", "x").refused(
        2, "'Time Travel'", "Color Editing"
    )


@pytest.mark.usefixtures("quick_figures")
def test_missing_black_corrupt_and_resized_outputs_are_counted_and_the_rest_is_scored(tagmoe, bench: Path) -> None:
    Path("ready").mkdir()
    Image.new("RGB", (40, 30), "red").save("ready/i0.png")
    Image.new("RGB", (80, 60), "red").save("ready/i1.png")
    Image.new("RGB", (40, 30), (0, 2, 1)).save("ready/i2.png")
    Path("ready/i3.png").write_bytes(b"\x89PNG and no more")
    made = tagmoe("eval", "generate", bench, "--outputs", "ready", "--out", "run", "--json")
    assert made.code == 1
    data = json.loads(made.out)
    assert data["statuses"] == {"ok": 2, "black": 1, "unreadable": 1, "missing": 1}
    assert [one["id"] for one in data["failures"]] == ["i2", "i3", "i4"]
    for words in ("i2: black", "i3: unreadable", "i4: missing"):
        assert words in made.err
    assert sorted(path.suffix for path in Path("run/outputs").iterdir()) == [".png"] * 3, "no placeholder"
    scored = tagmoe("eval", "score", bench, "run", "--metrics", "source,copying", "--json")
    assert scored.code == 1
    found = json.loads(scored.out)["runs"]["run"]
    assert found["statuses"] == {"black": 1, "unreadable": 1, "missing": 1}
    assert found["scored"] == {"source": 3, "copying": 3}, "a black picture is a picture"
    assert found["resized"] == 1
    assert "1 output of another size resized" in scored.err
    shown = tagmoe("eval", "report", bench, "run", "--out", "page", *FEW, "--json")
    assert shown.code == 0, shown.err
    report = json.loads(Path("page/report.json").read_text())
    (editor,) = report["editors"].values()
    assert editor["statuses"] == data["statuses"]
    assert (editor["resized"], report["left_out"]) == (1, 3)
    figure = editor["figures"]["l1_source"]
    assert (figure["n"], figure["applicable"], figure["coverage"]) == (3, 5, 0.6)
    assert figure["lacking"] == {"no_output": 2}
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(Path("page/cases.csv").read_text()))}
    assert {name: row["status"] for name, row in rows.items()} == {
        **{"i0": "ok", "i1": "ok", "i2": "black"},
        **{"i3": "unreadable", "i4": "missing"},
    }
    assert [rows[name]["l1_source"] == "" for name in ("i0", "i2", "i3", "i4")] == [False, False, True, True]
    values = [float(rows[name]["l1_source"]) for name in ("i0", "i1", "i2")]
    assert figure["micro"]["value"] == pytest.approx(sum(values) / 3), "what is missing is no zero"
    page = Path("page/report.html").read_text()
    assert "n 3 of 5" in page
    assert "3 cases that failed" in page


def test_a_benchmark_of_another_version_is_refused_by_every_verb(tagmoe, bench: Path) -> None:
    assert tagmoe("eval", "generate", bench, "--editor", "copy", "--out", "run").code == 0
    assert tagmoe("eval", "score", bench, "run", "--metrics", "copying").code == 0
    old = shutil.copytree(bench, "old")
    data = json.loads(Path(old, MANIFEST).read_text())
    Path(old, MANIFEST).write_text(json.dumps({**data, "format": 9}))
    for verb in (
        ("generate", old, "--editor", "copy", "--out", "x"),
        ("score", old, "run"),
        ("report", old, "run", "--out", "x"),
        ("compare", old, "run", "run"),
    ):
        tagmoe("eval", *verb).refused(1, "is of version 9, and this tagmoe reads 1", "run tagmoe eval prepare again")
    assert not Path("x").exists()


def test_cases_that_were_changed_by_hand_are_refused(tagmoe, bench: Path) -> None:
    lines = Path(bench, CASES).read_text().splitlines(keepends=True)
    Path(bench, CASES).write_text("".join([*lines, lines[0]]))
    tagmoe("eval", "generate", bench, "--editor", "copy", "--out", "x").refused(1, "The case 'i0' is in", "twice")
    Path(bench, CASES).write_text("".join(lines[1:]))
    tagmoe("eval", "generate", bench, "--editor", "copy", "--out", "x").refused(1, "are not those of its manifest.json")


def test_a_picture_of_a_case_that_is_gone_fails_its_case_alone(tagmoe, bench: Path) -> None:
    first = json.loads(Path(bench, CASES).read_text().splitlines()[0])
    Path(bench, first["source"]).unlink()
    made = tagmoe("eval", "generate", bench, "--editor", "copy", "--out", "run", "--json")
    assert made.code == 1
    assert json.loads(made.out)["statuses"] == {"failed": 1, "ok": 4}
    assert "i0: failed" in made.err


def test_a_described_set_is_prepared_by_the_same_command(tagmoe, ice: Path) -> None:
    Path("mine.yaml").write_text(
        "name: mine\nlicence: own\nrows: data/data.jsonl\n"
        "fields: {id: ItemID, instruction: Instruction, task: Task, source: SourceImage}\n"
    )
    made = tagmoe("eval", "prepare", "mine.yaml", "--from", ice, "--out", "mine", "--json")
    assert made.code == 1
    data = json.loads(made.out)
    assert (data["benchmark"], data["cases"], len(data["left_out"])) == ("mine", 6, 2)
    assert tagmoe("eval", "generate", "mine", "--editor", "copy", "--out", "run").code == 0
    tagmoe("eval", "prepare", "none.yaml", "--from", ice, "--out", "x").refused(2, "'none.yaml' cannot be read")
    tagmoe("eval", "prepare", "mine.yaml", "--out", "x").refused(2, "--from")
    tagmoe("eval", "prepare", "tagworld", "--set", "x", "--out", "x").refused(2, "--set 'x'", "NAME=VALUE")
