"""A registered experiment at tiny size: order, results, going on after a stop or a kill, the gate, the status."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from support.tiny_experiment import PLAN, write_arms

from tagmoe.errors import ConfigError, DivergedError, ResultError, UsageError
from tagmoe.laboratory.registered import machine, work
from tagmoe.laboratory.registered.gate import evaluate_gate
from tagmoe.laboratory.registered.plan import Experiment, read_experiment
from tagmoe.laboratory.registered.result import RegisteredRun, read_run
from tagmoe.laboratory.registered.runner import BEGUN, _only_one, jobs_of, pause, run_experiment, runs_now
from tagmoe.laboratory.registered.status import status_of

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arms(tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="module")
def experiment(recipes: Path) -> Experiment:
    return read_experiment(recipes, recipes / "plan.yaml")


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(out, results) of the first run."""
    out = tmp_path_factory.mktemp("out")
    run_experiment(experiment, out, out / "results", most=1, console=QUIET)
    return out, out / "results"


@pytest.fixture(scope="module")
def first_seed(experiment: Experiment, finished: tuple[Path, Path]) -> tuple[Path, Path]:
    """(out, results) of the first seed."""
    run_experiment(experiment, *finished, most=3, console=QUIET)
    return finished


def test_whole_seeds_come_first_in_the_order_of_the_plan(experiment: Experiment) -> None:
    first = ["dense-alpha-1", "wide-alpha-1", "oracle-alpha-1", "text-gate-alpha-0"]
    assert [run.name for run in experiment.runs] == [f"{name}-seed-{seed}" for seed in (3, 4) for name in first]


@pytest.mark.slow
def test_each_run_is_one_small_result(experiment: Experiment, first_seed: tuple[Path, Path]) -> None:
    out, results = first_seed
    assert sorted(path.stem for path in results.glob("*-seed-*.json")) == sorted(r.name for r in experiment.runs[:4])
    for run in experiment.runs[:4]:
        result = read_run(results / f"{run.name}.json")
        assert result.scores is not None
        assert len(result.scores.success) == len(result.scores.edit_done) == 2
        assert (result.conflict, result.seed, result.processor) == (run.conflict, 3, machine.processor())
        assert {"training", "editing", "judging"} == result.seconds.keys()
        assert (result.routing is None) == (run.arm.config.moe is None)
        assert (results / f"{run.name}.json").stat().st_size < 20_000
    left = {path.name for path in (out / "dense-alpha-1" / "seed-3").rglob("*")}
    assert not any(name.startswith(("edits-", "verdicts-", "checkpoints")) for name in left)


def test_the_status_before_a_seed_is_whole(experiment: Experiment, finished: tuple[Path, Path]) -> None:
    whole = read_run(finished[1] / "dense-alpha-1-seed-3.json")
    assert whole.scores is not None
    assert len(whole.scores.success) == 2
    found = status_of(experiment, *finished)
    assert found.done + found.left == 8
    assert found.hours is not None
    assert found.gate == "open"


@pytest.mark.slow
def test_the_status_counts_and_estimates(experiment: Experiment, first_seed: tuple[Path, Path]) -> None:
    found = status_of(experiment, *first_seed)
    assert (found.done, found.left, found.seeds_done, found.running) == (4, 4, (3,), False)
    assert found.next == "dense-alpha-1-seed-4"
    assert found.hours is not None
    assert found.gate == "open"
    assert "whole seeds: 3" in found.sentence()


def test_a_stopped_run_goes_on_to_the_same_result(
    experiment: Experiment, finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_run(finished[1] / "dense-alpha-1-seed-3.json")
    stops = iter(["train", "examine"])
    real = {"train": work.train, "examine": work.examined}

    def stopped(name: str, *args: Any) -> Any:
        result = real[name](*args)
        if (name == "examine" or args[0].plan is not None) and next(stops, None) == name:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(work, "train", lambda *args: stopped("train", *args))
    monkeypatch.setattr(work, "examined", lambda *args: stopped("examine", *args))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_experiment(experiment, tmp_path, tmp_path / "results", most=1, console=QUIET)
    run_experiment(experiment, tmp_path, tmp_path / "results", most=1, console=QUIET)
    again = read_run(tmp_path / "results" / "dense-alpha-1-seed-3.json")
    assert again.model_copy(update={"seconds": whole.seconds, "date": whole.date}) == whole


@pytest.mark.slow
def test_on_another_processor_a_run_starts_again(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = jobs_of(experiment, experiment.runs[0], tmp_path)
    monkeypatch.setattr(work, "examined", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, tmp_path, tmp_path / "results", most=1, console=QUIET)
    monkeypatch.undo()
    monkeypatch.setattr(machine, "processor", lambda: "another processor")
    trained = (job.model / "model_index.json").stat().st_mtime_ns
    base = (tmp_path / "base" / "seed-3" / "run" / "model" / "model_index.json").stat().st_mtime_ns
    run_experiment(experiment, tmp_path, tmp_path / "results", most=1, console=QUIET)
    result = read_run(tmp_path / "results" / "dense-alpha-1-seed-3.json")
    assert (result.restarts, result.processor) == (1, "another processor")
    assert (job.model / "model_index.json").stat().st_mtime_ns > trained
    # the finished base stays: all arms of a seed start from one
    assert (tmp_path / "base" / "seed-3" / "run" / "model" / "model_index.json").stat().st_mtime_ns == base


@pytest.mark.slow
def test_a_diverged_run_is_a_result_and_stops_no_other(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = work.train

    def diverging(job: Any, console: Console) -> None:
        real(job, console)
        if job.plan is not None:
            raise DivergedError("unified: flow nan is not finite at step 3.")

    monkeypatch.setattr(work, "train", diverging)
    outcome = run_experiment(experiment, tmp_path, tmp_path / "results", most=1, console=QUIET)
    result = read_run(tmp_path / "results" / f"{outcome.finished[0]}.json")
    assert result.scores is None
    assert "not finite at step 3" in (result.diverged or "")


def fake(results: Path, experiment: Experiment, whole: RegisteredRun, **flows: tuple[float, float]) -> None:
    """Results of both seeds of the gate whose flow losses are these."""
    for arm, losses in flows.items():
        for seed, loss in zip((3, 4), losses, strict=True):
            assert whole.flow is not None
            flow = whole.flow.model_copy(update={"loss": (loss,) * len(whole.flow.loss)})
            whole.model_copy(update={"arm": arm, "seed": seed, "flow": flow}).write(
                results / f"{arm}-alpha-1-seed-{seed}.json"
            )


@pytest.mark.parametrize(
    ("wide", "oracle", "goes_on"),
    [((0.9, 0.9), (1.1, 1.1), True), ((1.1, 0.9), (0.9, 1.1), False), ((1.1, 1.1), (0.9, 0.9), True)],
)
def test_the_gate_wants_one_control_below_dense_in_every_seed(
    experiment: Experiment,
    finished: tuple[Path, Path],
    tmp_path: Path,
    wide: tuple[float, float],
    oracle: tuple[float, float],
    goes_on: bool,
) -> None:
    whole = read_run(finished[1] / "dense-alpha-1-seed-3.json")
    fake(tmp_path, experiment, whole, dense=(1.0, 1.0), wide=wide)
    assert evaluate_gate(experiment, tmp_path) is None
    fake(tmp_path, experiment, whole, oracle=oracle)
    assert evaluate_gate(experiment, tmp_path) is goes_on
    assert json.loads((tmp_path / "gate.json").read_text())["goes on"] is goes_on
    if not goes_on:
        outcome = run_experiment(experiment, tmp_path / "out", tmp_path, console=QUIET)
        assert outcome.stopped_by_gate
        assert not outcome.finished


def test_results_of_another_plan_are_refused(finished: tuple[Path, Path], recipes: Path) -> None:
    other = read_experiment(recipes, recipes / "plan.yaml", ("unified.steps=5",))
    with pytest.raises(ResultError, match="is of another plan"):
        status_of(other, *finished)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [3, 3]}, "names a seed twice"),
        ({"cells": [{"conflict": 1.0, "arms": ["dense", "dense"]}]}, "names a seed twice|looks at|names an arm twice"),
        ({"gate": {"seeds": 3, "conflict": 1.0, "baseline": "dense", "arms": ["wide"]}}, "which the plan does not run"),
        ({"cells": [{"conflict": 2.0, "arms": ["dense"]}]}, "is wrong"),
    ],
)
def test_a_plan_that_is_wrong_is_refused(recipes: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    with pytest.raises(ConfigError, match=said):
        read_experiment(recipes, path)


def test_two_processes_do_not_run_one_experiment(experiment: Experiment, tmp_path: Path) -> None:
    assert not runs_now(tmp_path)
    assert not pause(tmp_path)
    with _only_one(tmp_path):
        assert runs_now(tmp_path)
        with pytest.raises(UsageError, match="Another process runs the experiment"):
            run_experiment(experiment, tmp_path, tmp_path / "results", console=QUIET)
    assert not runs_now(tmp_path)


@pytest.mark.slow
def test_a_kill_and_a_pause_lose_nothing(tmp_path: Path) -> None:
    recipes = write_arms(tmp_path, steps=150)
    command = [sys.executable, "-c", "from tagmoe.cli import main; main()", "ablation", "run", str(recipes)]
    command += ["--plan", str(recipes / "plan.yaml"), "--most", "1", "--set", "save_every=20"]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "stopped"
    log = out / "dense-alpha-1" / "seed-3" / "run" / "metrics.jsonl"
    for wanted, stop in ((30, "kill"), (80, "pause")):
        process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < wanted):
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it could be stopped"
        if stop == "kill":
            process.send_signal(signal.SIGKILL)
        else:
            assert pause(out)
        process.wait()
    assert (out / "dense-alpha-1" / "seed-3" / BEGUN).is_file()
    last = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    found, expected = (read_run(o / "results" / "dense-alpha-1-seed-3.json") for o in (out, tmp_path / "whole"))
    assert found.model_copy(update={"seconds": expected.seconds, "date": expected.date}) == expected


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="a kernel without autogroups")
def test_a_run_in_the_background_gives_way_to_other_sessions_too() -> None:
    code = (
        "import os; from pathlib import Path;"
        "from tagmoe.laboratory.registered.priority import take_the_lowest_priority;"
        "take_the_lowest_priority(); print(os.nice(0), Path('/proc/self/autogroup').read_text().split()[-1])"
    )
    said = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert said.stdout.split() == ["19", "19"], said.stderr
