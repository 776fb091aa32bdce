"""Running arms x seeds in processes: results, going on after a kill, failures that stop no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.tiny_training import SETTINGS, write_components

from tagmoe.errors import MissingError, ResultError, TagMoEError, UsageError
from tagmoe.laboratory.ablation.arms import load_arms
from tagmoe.laboratory.ablation.interference import family_jobs, summarise
from tagmoe.laboratory.ablation.job import Job, arm_job, base_job, do, read_job
from tagmoe.laboratory.ablation.measure import Plan
from tagmoe.laboratory.ablation.results import read_result
from tagmoe.laboratory.ablation.run import Failure, Outcome, failed, run_jobs
from tagmoe.world.families import FAMILIES

PLAN = Plan(per_task=1, steps=1, cfg=1.0, curve_cases=0, tasks=("recolour", "style"))
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three arms so small that a step takes milliseconds."""
    folder = tmp_path_factory.mktemp("arms")
    components = write_components(folder / "components")
    common = {**SETTINGS, "components": components, "output_dir": "unused", "validate_every": 3}
    common["base"] = {"steps": 2, "batch": 4, "unique_samples": 64}
    (folder / "common.yaml").write_text(yaml.safe_dump(common))
    for name, settings in (("dense", {"moe": None}), ("moe", {"loss": {"lambda_align": 0}}), ("align", {})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"about": f"arm {name}", "settings": settings}))
    return folder


def jobs_of(arms: Path, out: Path, *names: str, overrides: tuple[str, ...] = ()) -> tuple[list[Job], list[Job]]:
    chosen = load_arms(arms, names, overrides)
    return [base_job(out, 0, chosen[0])], [arm_job(out, 0, arm, PLAN.record()) for arm in chosen]


def in_this_process(*jobs: Job) -> None:
    for job in jobs:
        job.write()
        do(job)


@pytest.mark.slow
def test_arms_run_in_processes_and_are_not_run_again(arms: Path, tmp_path: Path) -> None:
    bases, work = jobs_of(arms, tmp_path, "align")
    outcome = run_jobs(bases, work, jobs=2, console=QUIET)
    assert failed(outcome) is None
    assert [job.arm for job in outcome.done] == ["align"]
    path = work[0].folder / "result.json"
    assert read_result(path).seconds["training"] > 0
    before = path.stat().st_mtime_ns
    assert run_jobs(bases, work, console=QUIET).done == outcome.done
    assert path.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def aligned(arms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """The jobs of two arms: dense is not begun, align is done."""
    bases, work = jobs_of(arms, tmp_path_factory.mktemp("finished"), "dense", "align")
    in_this_process(*bases, work[1])
    return work


@pytest.fixture(scope="module")
def finished(aligned: list[Job]) -> list[Job]:
    """The jobs of two arms, done: dense and align."""
    in_this_process(aligned[0])
    return aligned


@pytest.mark.slow
def test_results_of_dense_and_sparse_fit_together(finished: list[Job]) -> None:
    dense, align = (read_result(job.folder / "result.json") for job in finished)
    assert dense.common == align.common
    assert dense.cases == align.cases
    assert dense.routing is None
    assert align.routing is not None
    assert align.parameters["all"] > align.parameters["used"] > dense.parameters["used"] == dense.parameters["all"]
    assert len(dense.verdicts.success) == 2
    assert [point["step"] for point in align.curve] == [3, 6]
    assert not {"output_dir", "cache_dir", "dense"} & align.settings.keys()


def test_a_job_goes_on_from_what_is_there(aligned: list[Job]) -> None:
    _, job = aligned
    first = read_result(job.folder / "result.json")
    (job.folder / "result.json").unlink()
    weights = (job.model / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    edits = (job.folder / "edits.safetensors").stat().st_mtime_ns
    do(read_job(job.folder))
    again = read_result(job.folder / "result.json")
    assert again.model_copy(update={"date": first.date, "seconds": first.seconds}) == first
    assert (job.model / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == weights
    assert (job.folder / "edits.safetensors").stat().st_mtime_ns == edits
    assert job.steps_done() == job.steps == 6


def test_other_settings_in_the_same_folder_are_refused(arms: Path, tmp_path: Path) -> None:
    bases, work = jobs_of(arms, tmp_path, "moe")
    for job in (*bases, *work):
        job.write()
    _, (other,) = jobs_of(arms, tmp_path, "moe", overrides=("unified.steps=9",))
    with pytest.raises(ResultError, match="holds this arm with other settings; choose another --out"):
        run_jobs(bases, [other], console=QUIET)


@pytest.mark.slow
def test_a_job_that_fails_stops_no_other_and_is_named(arms: Path, tmp_path: Path) -> None:
    bases, work = jobs_of(arms, tmp_path, "dense", "moe")
    in_this_process(*bases)
    for job in work:
        job.write()
    # something else than a run lies where the run should be
    (work[0].folder / "run").write_text("in the way")
    outcome = run_jobs(bases, work, console=QUIET)
    assert [job.arm for job in outcome.done] == ["moe"]
    error = failed(outcome)
    assert error is not None
    assert "dense seed 0 failed: error: " in str(error)
    assert "log.txt" in str(error)
    assert "\n" not in str(error)


@pytest.mark.slow
def test_without_its_base_no_arm_of_a_seed_starts(arms: Path, tmp_path: Path) -> None:
    bases, work = jobs_of(arms, tmp_path, "moe")
    bases[0].write()
    (bases[0].folder / "run").write_text("in the way")
    outcome = run_jobs(bases, work, console=QUIET)
    assert not outcome.done
    assert [failure.job.arm for failure in outcome.failed] == ["base"]
    assert not (work[0].folder / "run").exists()


def test_no_failures_are_no_error() -> None:
    assert failed(Outcome()) is None


def family_work(arms: Path, out: Path) -> tuple[Job, list[Job]]:
    (arm,) = load_arms(arms, ["moe"], ["unified.steps=24", "unified.unique_samples=256"])
    return base_job(out, 0, arm), family_jobs(out, 0, arm, replace(PLAN, tasks=None))


def test_a_family_trains_as_long_a_task_as_all_together(arms: Path, tmp_path: Path) -> None:
    _, (together, *families) = family_work(arms, tmp_path)
    assert together.steps == 24
    assert [job.steps for job in families] == [len(tasks) for tasks in FAMILIES.values()]
    for job, tasks in zip(families, FAMILIES.values(), strict=True):
        assert job.plan is not None
        assert tuple(job.config.unified.edit_tasks or ()) == tuple(job.plan["tasks"]) == tasks
        assert job.config.unified.text_to_image_every == 0
        assert job.config.dense == together.config.dense


def test_unfinished_families_are_not_summarised(arms: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"moe-together.*cannot be read"):
        summarise(tmp_path, ["moe"], [0])


@pytest.mark.slow
def test_families_are_compared_on_their_own_cases(arms: Path, tmp_path: Path) -> None:
    base, jobs = family_work(arms, tmp_path)
    in_this_process(base, *jobs)
    data = json.loads(summarise(tmp_path, ["moe"], [0], samples=4).read_text())
    row = data["training"]["moe"]["attribute"]
    assert row["cases"] == 4
    assert row["difference"] == pytest.approx(row["together"] - row["alone"])
    assert row["steps"] == {"alone": 4, "together": 24}
    gradients = data["gradients"]["moe"]
    assert len(gradients["cosine"]) == len(gradients["tasks"]) == 24


@pytest.mark.slow
def test_kill_9_of_parent_and_child_loses_nothing(arms: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from tagmoe.cli import main; main()"]
    command += ["ablation", "run", str(arms), "--arms", "moe", "--seeds", "0"]
    command += ["--cases", "1", "--set", "unified.steps=200", "--set", "save_every=20"]
    command += ["--set", "validate_every=200"]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    expected = read_result(tmp_path / "whole" / "moe" / "seed-0" / "result.json")
    out = tmp_path / "killed"
    log = out / "moe" / "seed-0" / "run" / "metrics.jsonl"
    for kills in range(3):
        process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
        wanted = 45 * (kills + 1)
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < wanted):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # the child saves and ends by itself: the next call must find the folder free
        deadline = time.monotonic() + 60
        while _children(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _children(out)
    last = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    found = read_result(out / "moe" / "seed-0" / "result.json")
    assert found.verdicts == expected.verdicts
    assert found.flow == expected.flow
    assert found.training == expected.training


def _children(out: Path) -> list[int]:
    """Processes of jobs in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"tagmoe.laboratory.ablation.job" in words and any(word.startswith(str(out).encode()) for word in words):
                found.append(int(entry.name))
    return found


def test_the_command_fails_as_its_job_did(arms: Path, tmp_path: Path) -> None:
    job = jobs_of(arms, tmp_path, "align")[1][0]
    kinds = {code: type(failed(Outcome(failed=[Failure(job, "a reason", code)]))) for code in (1, 2, 3, -9)}
    assert kinds == {1: TagMoEError, 2: UsageError, 3: MissingError, -9: TagMoEError}
