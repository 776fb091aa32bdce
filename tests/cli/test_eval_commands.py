"""`tagmoe eval`: from a benchmark to scores and pages by commands, and every mistake in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tagmoe.evaluate.benchmarks.cases import read_prepared
from tagmoe.world import TASKS


@pytest.fixture
def bench(tagmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One case of each task in the folder `bench`, where the commands run."""
    monkeypatch.chdir(tmp_path)
    made = tagmoe("eval", "prepare", "tagworld", "--cases", 1, "--out", "bench", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["cases"] == len(TASKS)
    return Path("bench")


def test_list_names_what_there_is(tagmoe) -> None:
    shown = tagmoe("eval", "list")
    assert shown.code == 0
    for word in ("tagworld", "ice-bench", "shuffled", "near_copy", "success"):
        assert word in shown.out
    data = json.loads(tagmoe("eval", "list", "--json").out)
    assert data["metrics"]["oracle"]["values"]["success"]["better"] == "higher"


@pytest.mark.slow
def test_anchors_are_generated_and_scored(tagmoe, bench: Path) -> None:
    for name in ("target", "black", "copy", "shuffled"):
        made = tagmoe("eval", "generate", bench, "--editor", name, "--out", name, "--json")
        assert made.code == 0, made.err
        assert json.loads(made.out)["new"] == len(TASKS)
        assert json.loads(tagmoe("eval", "generate", bench, "--editor", name, "--out", name, "--json").out)["new"] == 0
    first = tagmoe("eval", "score", bench, "target", "black", "--json")
    assert first.code == 0, first.err
    again = tagmoe("eval", "score", bench, "target", "black", "--json")
    runs = [json.loads(one.out)["runs"] for one in (first, again)]
    assert runs[0]["target"]["digest"] == runs[1]["target"]["digest"]
    metrics = [path.stem for path in Path("target/scores").glob("*.jsonl")]
    assert {"oracle", "reference-copy"} < set(metrics)
    assert (runs[0]["target"]["new"], runs[1]["target"]["new"]) == (len(metrics) * len(TASKS), 0)
    rows = [json.loads(line) for line in Path("target/scores/oracle.jsonl").read_text().splitlines()]
    assert [row["values"]["success"] for row in rows] == [1.0] * len(TASKS)
    black = [json.loads(line) for line in Path("black/scores/oracle.jsonl").read_text().splitlines()]
    assert [row["values"]["success"] for row in black] == [0.0] * len(TASKS)


@pytest.mark.slow
def test_a_model_is_generated_as_the_demo_does(tagmoe, bench: Path, model: Path) -> None:
    made = tagmoe("eval", "generate", bench, "--model", model, "--steps", 1, "--cfg", 1, "--out", "mine", "--json")
    assert made.code == 0, made.err
    scored = tagmoe("eval", "score", bench, "mine", "--metrics", "oracle")
    assert scored.code == 0, scored.err
    demo = tagmoe("demo", "--model", model, "--cases", 1, "--steps", 1, "--cfg", 1, "--out", "demo", "--json")
    verdicts = {(case["task"], case["index"]): case for case in json.loads(demo.out)["cases"]}
    rows = [json.loads(line) for line in Path("mine/scores/oracle.jsonl").read_text().splitlines()]
    for case, row in zip(read_prepared(bench).cases, rows, strict=True):
        verdict = verdicts[(case.task, case.meta["index"])]
        assert row["values"]["success"] == float(verdict["success"])
        assert row["values"].get("subject") == verdict["subject"]
    facts = json.loads(Path("mine/run.json").read_text())
    assert facts["editor"]["settings"] == {"steps": 1, "cfg": 1.0}
    assert len(facts["editor"]["weights"]) == 64
    assert str(model) not in Path("mine/run.json").read_text()


def test_missing_and_damaged_outputs_are_listed_and_the_rest_is_scored(tagmoe, bench: Path) -> None:
    tagmoe("eval", "generate", bench, "--editor", "target", "--out", "target")
    cases = read_prepared(bench).cases
    Path("ready").mkdir()
    for case in cases[1:]:
        Image.new("RGB", (32, 32), "red").save(f"ready/{case.id}.png")
    Path(f"ready/{cases[1].id}.png").write_bytes(b"\x89PNG")
    made = tagmoe("eval", "generate", bench, "--outputs", "ready", "--out", "run", "--json")
    assert made.code == 1
    data = json.loads(made.out)
    assert data["statuses"] == {"missing": 1, "unreadable": 1, "ok": len(TASKS) - 2}
    assert [one["id"] for one in data["failures"]] == [cases[0].id, cases[1].id]
    assert f"{cases[0].id}: missing (there is no file of this id)" in made.err
    answers = [json.loads(line) for line in Path("run/answers.jsonl").read_text().splitlines()]
    Path("run", answers[5]["file"]).write_bytes(b"rubbish")
    Path("run", answers[6]["file"]).unlink()
    scored = tagmoe("eval", "score", bench, "run", "--json")
    assert scored.code == 1
    found = json.loads(scored.out)["runs"]["run"]
    assert found["statuses"] == {"missing": 1, "unreadable": 3}
    assert found["scored"]["oracle"] == len(TASKS) - 4
    assert found["resized"] == len(TASKS) - 4
    assert "of another size resized" in scored.err
    shutil.copytree("target", "other")
    (Path("other") / "run.json").write_text(Path("target/run.json").read_text().replace('"format": 1', '"format": 3'))
    tagmoe("eval", "score", bench, "other").refused(1, "version 3")


def test_mistakes_are_refused_in_one_sentence(tagmoe, bench: Path) -> None:
    tagmoe("eval", "prepare", "ice", "--out", "x").refused(2, "There is no benchmark 'ice'")
    tagmoe("eval", "prepare", "ice-bench", "--from", ".", "--out", "x").refused(2, "--accept-licence")
    tagmoe("eval", "prepare", "tagworld", "--out", "bench").refused(2, "exists", "--force")
    copy = ("eval", "generate", bench, "--editor", "copy")
    tagmoe(*copy, "--out", "x", "--tasks", "paint").refused(2, "'paint'", "generate, add")
    tagmoe(*copy, "--out", "x", "--shard", "3/2").refused(2, "--shard is '3/2'")
    tagmoe(*copy, "--out", "x", "--outputs", "ready").refused(2, "--outputs", "give one of them")
    tagmoe("eval", "generate", bench, "--outputs", "none", "--out", "x").refused(2, "no folder of outputs")
    tagmoe("eval", "generate", "none", "--editor", "copy", "--out", "x").refused(2, "is no prepared benchmark")
    tagmoe("eval", "score", bench, "none").refused(2, "is no run")
    tagmoe(*copy, "--out", "x")
    tagmoe("eval", "score", bench, "x", "--metrics", "beauty").refused(2, "There is no metric 'beauty'", "oracle")
    tagmoe(*copy, "--out", "x", "--seed", 1).refused(2, "its seed is 0, not 1")
    assert not Path("none").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_runs_are_reported_and_compared(tagmoe, bench: Path) -> None:
    for name in ("target", "copy"):
        tagmoe("eval", "generate", bench, "--editor", name, "--out", name)
    tagmoe("eval", "report", bench, "copy", "--out", "page").refused(1, "has no scores", "tagmoe eval score")
    assert tagmoe("eval", "score", bench, "target", "copy", "--metrics", "oracle,copying").code == 0
    few = ("--draws", 100, "--pictures", 2)
    shown = tagmoe("eval", "report", bench, "target", "copy", "--out", "page", *few)
    assert shown.code == 0, shown.err
    assert shown.out == f"{Path('page', 'report.html')}\n"
    assert "target: success 100.0" in shown.err
    tagmoe("eval", "report", bench, "target", "--out", "page").refused(2, "exists", "--force")
    Path("page", "mine").write_text("mine")
    tagmoe("eval", "report", bench, "target", "--out", "page", "--force").refused(2, "'mine'")
    tagmoe("eval", "report", bench, "target", "--out", "x", "--by-task", "joy").refused(2, "'joy'", "success")
    tagmoe("eval", "report", bench, "target", "--out", "x", "--baseline", "joy").refused(2, "'joy'", "target")
    paired = tagmoe("eval", "compare", bench, "copy", "target", "--draws", 100, "--json")
    assert paired.code == 0, paired.err
    data = json.loads(paired.out)
    assert data["bootstrap"] == {"draws": 100, "seed": 0, "groups": len(TASKS)}
    assert data["rests_on"]["a"]["key"] == json.loads(Path("page/report.json").read_text())["editors"]["copy"]["key"]
    found = data["differences"]
    assert found["success"]["applicable"] == len(TASKS)
    assert (found["success"]["value"], found["success"]["n"]) == (1.0, len(TASKS) - 1)
    assert found["near_copy"]["value"] == -1.0
    assert "success (%, up)" in tagmoe("eval", "compare", bench, "copy", "target", "--draws", 100).out
    for run, task in (("copy", "add"), ("target", "move")):
        tagmoe("eval", "generate", bench, "--editor", run, "--tasks", task, "--out", f"part {run}")
        tagmoe("eval", "score", bench, f"part {run}", "--tasks", task, "--metrics", "oracle")
    tagmoe("eval", "compare", bench, "part copy", "part target").refused(1, "no case has a value in both")
    tagmoe("eval", "score", bench, "copy", "--metrics", "source")
    tagmoe("eval", "compare", bench, "copy", "target").refused(1, "'target' has no scores of the metric 'source'")
    tagmoe("eval", "prepare", "tagworld", "--cases", 1, "--seed", 1, "--out", "other")
    tagmoe("eval", "compare", "other", "copy", "target").refused(2, "is of other cases than")
