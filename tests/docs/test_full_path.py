"""The whole path in one script: what it refuses, that no stage can do nothing, and that its tutorial types the same.

The script itself runs in CI (`make path`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tagmoe.recipes.full_path import checks

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "full_path.sh"
PAGE = (ROOT / "docs" / "full_path.md").read_text()


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(["bash", str(SCRIPT), *words], env=given, capture_output=True, text=True, check=False)


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    done = run(str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: '{tmp_path}' is there already; delete it, or name another folder.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_scale_is_one_sentence(tmp_path: Path) -> None:
    done = run(str(tmp_path / "out"), SCALE="huge")
    assert (done.returncode, done.stderr) == (2, "error: SCALE is 'huge'; give toy or full.\n")
    assert not (tmp_path / "out").exists()


def test_every_stage_of_the_script_is_checked() -> None:
    begun = re.findall(r"^begin (\w+)", SCRIPT.read_text(), flags=re.MULTILINE)
    assert begun == list(checks.STAGES)
    assert SCRIPT.read_text().count("\npassed\n") == len(begun)


@pytest.mark.parametrize("stage", checks.STAGES)
def test_a_stage_that_left_nothing_fails(stage: str, tmp_path: Path) -> None:
    """In words, or at the first file that it looks for."""
    with pytest.raises((checks.Failed, OSError, checks.TagMoEError)):
        checks.main(stage, tmp_path, "0")
    assert not (tmp_path / "stages.jsonl").exists()


def test_a_step_is_waited_for_as_long_as_the_training_lives(tmp_path: Path) -> None:
    file = tmp_path / "run" / "metrics.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps({"step": step, "flow": 1.0}) + "\n" for step in (1, 2)))
    checks.wait_for_step(tmp_path, 2, os.getpid())
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(checks.Failed, match="ended before step 3"):
        checks.wait_for_step(tmp_path, 3, ended.pid)


def test_the_tutorial_types_what_the_script_runs() -> None:
    """Verbs and options, apart from folders, which the script names by variables."""

    def shape(command: str) -> tuple[str, ...]:
        return tuple(re.findall(r"(?<!\S)(?:--?[a-z][a-z-]*|[a-z]+(?:-[a-z]+)*)(?!\S)", command))

    run_there = {shape(line) for line in re.findall(r"\b(?:run|expect 1) (tagmoe .*)", SCRIPT.read_text())}
    typed = [shape(line) for line in re.findall(r"^(tagmoe .*)", PAGE, flags=re.MULTILINE)]
    assert len(typed) >= 15
    assert [command for command in typed if command not in run_there] == []


@pytest.mark.slow
def test_the_costs_at_full_size_are_those_of_the_plan() -> None:
    done = run(SCALE="full")
    assert done.returncode == 0, done.stderr
    assert [stage for stage in checks.STAGES if stage != "page" and stage not in done.stdout] == []
    hours = re.search(r"([\d,]+) H100-hours for one pass", done.stdout)
    assert hours is not None
    # what docs/scale.md says of one pass with the recipe's recomputation
    assert round(int(hours[1].replace(",", "")), -2) == 5_200
    assert "5,200 with the recipe's recomputation" in (ROOT / "docs" / "scale.md").read_text()
