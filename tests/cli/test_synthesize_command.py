"""`tagmoe data synthesize`: the estimate, the result, the page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tagmoe.config import find_plan
from tagmoe.data.store.store import Store
from tagmoe.factory.plan import read_plan
from tagmoe.files.yaml_text import write_yaml

ROOTS = {"kind": "tagworld", "options": {"count": 6, "seed": 1, "tasks": "light,add"}, "unit": 3}
EDIT = {"step": "edit", "editor": "support.bad_editors:inverted", "timeout": None, "licence": "MIT"}
STEPS = [EDIT, {"step": "check"}, {"step": "pick"}, {"step": "annotate"}, {"step": "invert"}, {"step": "split"}]


@pytest.fixture
def write(tmp_path: Path):
    def write(**changes) -> Path:
        path = tmp_path / "plan.yaml"
        path.write_text(write_yaml({"name": "mine", "dataset": "tagworld", "roots": ROOTS, "steps": STEPS, **changes}))
        return path

    return write


def test_a_plan_is_run_and_its_page_says_what_each_step_left(tagmoe, tmp_path, write) -> None:
    plan, out = write(prices={"hour": 3600}), tmp_path / "made"
    before = json.loads(tagmoe("data", "synthesize", plan, "--out", out, "--plan", "--json").out)
    assert (before["roots"], before["steps"][0]["rows"], before["steps"][0]["of"]) == (6, 6, "assumed")
    assert not out.exists()
    done = tagmoe("data", "synthesize", plan, "--out", out, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["kept"] == 6 == len(Store.open(out / "store")) - data["inverses"]
    assert data["cost_a_sample"] == pytest.approx(data["seconds"] / 6, rel=1e-3)
    assert data["finished"]["6 split"] == {"train": 6 + data["inverses"]}
    assert sum(data["finished"]["4 annotate"].values()) == 6
    kept = json.loads((out / "survival.json").read_text())
    assert kept["steps"] == data["steps"]
    page = (out / "survival.html").read_text()
    assert "2 check" in page
    assert "Apache-2.0 AND MIT" in page
    after = json.loads(tagmoe("data", "synthesize", plan, "--out", out, "--plan", "--json").out)
    assert after["steps"][0]["of"] == "measured"
    assert after["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": [{"step": "edt"}]}, ("Step 1", "'edt'", "edit")),
        ({"steps": [{"step": "edit", "seeds": 0}]}, ("Step 1 (edit)", "'seeds' is 0", "from 1 to 64")),
        ({"steps": [{"step": "edit", "sed": 1}]}, ("'sed' is unknown",)),
        ({"steps": [{"step": "check"}, EDIT]}, ("the step edit comes too late",)),
        ({"steps": [{"step": "check"}]}, ("no step makes pictures",)),
        ({"steps": [EDIT, {"step": "pick"}, {"step": "pick"}]}, ("pick stands twice",)),
        ({"steps": [EDIT, {"step": "recaption"}]}, ("the plan names none",)),
        ({"roots": {"store": "a", "kind": "tagworld"}}, ("either a store or a kind",)),
        ({"roots": {"kind": "nothing"}}, ("'nothing'",)),
        ({"roots": {"store": "nowhere"}}, ("There is no store",)),
        ({"steps": [{**EDIT, "editor": "copy"}]}, ("'copy'",)),
        ({"steps": [{**EDIT, "may_train": False}]}, ("forbid training",)),
        ({"steps": [EDIT, {"step": "check", "thresholds": {"all": {"blnk": 1}}}]}, ("'blnk'",)),
        ({"steps": [EDIT, {"step": "judge", "by": "nobody"}], "vlm": {"model": "m"}}, ("There is no judge 'nobody'",)),
    ],
)
def test_a_wrong_plan_is_refused_in_one_sentence_and_nothing_is_made(tagmoe, tmp_path, write, changes, words) -> None:
    tagmoe("data", "synthesize", write(**changes), "--out", tmp_path / "made").refused(2, *words)
    assert not (tmp_path / "made" / "candidates").exists()


def test_a_plan_goes_by_name_and_a_wrong_name_gets_the_near_one(tagmoe, tmp_path) -> None:
    assert read_plan(find_plan(Path("tagworld/plans/quick"))).name == "tagworld-quick"
    tagmoe("data", "synthesize", "tagworld/plans/quik").refused(2, "did you mean 'tagworld/plans/quick'?")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    out = ("--out", tmp_path / "made")
    tagmoe("data", "synthesize", "tagworld/plans/quick", *out).refused(2, "holds 'thesis.txt'")
