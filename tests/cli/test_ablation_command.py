"""`tagmoe ablation`: what it starts, what it says of a job that fails, and which options go together."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tagmoe.errors import UsageError
from tagmoe.laboratory.ablation import interference, job, run
from tagmoe.laboratory.registered import priority, runner

ARMS, PLANNED = "tagworld/ablation", "tagworld/conflict"


class Started:
    """A process of a job that is at work once, then done, or ended with `codes` of its arm."""

    codes: dict[str, int]
    begun: list[str]

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: object) -> None:
        self.job = job.read_job(Path(command[-1]))
        self.begun.append(self.job.arm)
        self.returncode = self.codes.get(self.job.arm, 0)
        stdout.write(f"step 1\nerror: {self.job.arm} has its reasons\n\n".encode())
        assert env["OMP_NUM_THREADS"] == str(self.job.config.threads or 1)
        self._polls = iter([None])

    def poll(self) -> int | None:
        if next(self._polls, "done") is None:
            return None
        if self.returncode == 0:
            done = self.job.model if self.job.plan is None else self.job.folder / "result.json"
            done.parent.mkdir(parents=True, exist_ok=True)
            done.touch()
        return self.returncode


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> type[Started]:
    monkeypatch.setattr(Started, "codes", {}, raising=False)
    monkeypatch.setattr(Started, "begun", [], raising=False)
    monkeypatch.setattr(run, "subprocess", SimpleNamespace(Popen=Started, PIPE=-1))
    monkeypatch.setattr(run, "POLL", 0.0)
    return Started


def test_arms_are_run_after_their_base_and_not_again(tagmoe, started: type[Started], tmp_path: Path) -> None:
    command = ("ablation", "run", ARMS, "--out", tmp_path, "--arms", "dense,moe", "--seeds", "0", "--jobs", 2)
    made = tagmoe(*command, "--json")
    assert made.code == 0, made.err
    assert started.begun == ["base", "dense", "moe"]
    results = [str(tmp_path / arm / "seed-0" / "result.json") for arm in ("dense", "moe")]
    assert json.loads(made.out) == {"out": str(tmp_path), "results": results}
    assert "dense seed 0: done in 0.0 min" in made.err
    assert tagmoe(*command).out == f"{tmp_path}\n"
    assert len(started.begun) == 3


def test_a_job_that_fails_is_named_with_its_last_line(tagmoe, started: type[Started], tmp_path: Path) -> None:
    started.codes["moe"] = 2
    made = tagmoe("ablation", "run", ARMS, "--out", tmp_path, "--arms", "dense,moe", "--seeds", "0")
    assert made.code == 2
    assert started.begun == ["base", "dense", "moe"]
    assert "moe seed 0 failed: error: moe has its reasons (exit code 2" in made.err.splitlines()[-1]
    started.codes["base"] = 1
    broken = tagmoe("ablation", "run", ARMS, "--out", tmp_path / "other", "--arms", "moe", "--seeds", "0,1")
    assert broken.code == 1
    assert "base seed 0 failed, and 1 more: " in broken.err.splitlines()[-1]
    assert started.begun[3:] == ["base", "base"]


def test_families_are_run_and_compared(tagmoe, started: type[Started], tmp_path: Path, monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(interference, "summarise", lambda *words: seen.append(words) or tmp_path / "found.json")
    made = tagmoe("ablation", "interference", ARMS, "--out", tmp_path, "--arms", "moe", "--equal-steps")
    assert made.code == 0, made.err
    assert made.out == f"{tmp_path / 'found.json'}\n"
    assert seen == [(tmp_path, ["moe"], [0])]
    assert started.begun[0] == "base"
    assert len(started.begun) > 3


def test_a_registered_experiment_takes_its_plan(tagmoe, tmp_path: Path, monkeypatch) -> None:
    calls: list[Any] = []

    def run_experiment(experiment: Any, out: Path, results: Path, *, most: int | None) -> runner.Outcome:
        calls.append((experiment.plan.name, out, results, most))
        return runner.Outcome(("dense-alpha-1-seed-11",), 3, stopped_by_gate=True)

    monkeypatch.setattr(runner, "run_experiment", run_experiment)
    monkeypatch.setattr(priority, "take_the_lowest_priority", lambda: calls.append("lowest"))
    plan = tagmoe("ablation", "status", PLANNED, "--out", tmp_path, "--json")
    assert plan.code == 0, plan.err
    found = json.loads(plan.out)
    assert (found["done"], found["running"], found["hours"], found["gate"]) == (0, False, None, "open")
    assert f"0 runs done (whole seeds: none), stopped at {found['next']} (0% of its steps)" in tagmoe(
        "ablation", "status", PLANNED, "--out", tmp_path
    ).out  # fmt: skip
    file = Path(__file__).parents[2] / "recipes" / PLANNED / "plan.yaml"
    made = tagmoe("ablation", "run", PLANNED, "--out", tmp_path, "--plan", file, "--most", 1, "--json")
    assert made.code == 0, made.err
    assert "The gate stopped the experiment" in made.err
    assert json.loads(made.out)["left"] == 3
    assert calls[0] == "lowest"
    assert calls[1][1:] == (tmp_path, tmp_path / "results", 1)
    paused = tagmoe("ablation", "pause", "--out", tmp_path, "--json")
    assert json.loads(paused.out) == {"stopped": False}


def test_options_that_do_not_go_together(tagmoe, tmp_path: Path) -> None:
    command = ("ablation", "run", PLANNED, "--out", tmp_path)
    tagmoe(*command, "--plan", "plan.yaml", "--jobs", 2).refused(2, "leave these options out with --plan")
    tagmoe(*command, "--most", 2).refused(2, "give --plan too")
    tagmoe("ablation", "run", ARMS, "--out", tmp_path, "--seeds", "0,0").refused(2, "--seeds is '0,0'")


def test_a_job_ends_with_the_code_of_its_error(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(job, "_stop_with_parent", lambda: None)
    monkeypatch.setattr(job, "read_job", lambda folder: folder)
    codes = []
    for ends in (None, UsageError("It is misused."), KeyboardInterrupt("at step 3")):

        def do(_: Path, ends: BaseException | None = ends) -> None:
            if ends is not None:
                raise ends

        monkeypatch.setattr(job, "do", do)
        codes.append(job.main(tmp_path))
    assert codes == [0, 2, 130]
    assert capsys.readouterr().out == "error: It is misused.\nstopped: at step 3\n"
