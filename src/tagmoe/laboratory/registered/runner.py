"""Run a registered experiment: one run after the other, in one process.

OUT/
    .lock, runner.json       held by the process that runs; its process id
    cache/                   encoded pictures, shared by the runs of a seed
    base/seed-S/             the dense base of a seed
    ARM-alpha-A/seed-S/      a run: run/ as of training, edits-*, verdicts-*, begun.json
RESULTS/
    ARM-alpha-A-seed-S.json  written last, when the run is done
    gate.json                the look at the positive controls

A stop, even a kill, loses the training steps since the last checkpoint (`save_minutes` of the arms), or a part of the
cases. The next call goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from tagmoe.errors import DivergedError, ResultError, UsageError
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.job import Job, arm_job, base_job, portable
from tagmoe.laboratory.registered.gate import evaluate_gate, finished_runs
from tagmoe.laboratory.registered.plan import Experiment, Planned
from tagmoe.laboratory.registered.result import RegisteredRun
from tagmoe.sentences import counted

LOCK, RUNNER, BEGUN = ".lock", "runner.json", "begun.json"


@dataclass(frozen=True)
class Outcome:
    """What a call did: the runs that it finished, and whether the gate or the plan's end stopped it."""

    finished: tuple[str, ...]
    left: int
    stopped_by_gate: bool


def run_experiment(
    experiment: Experiment, out: Path, results: Path, *, most: int | None = None, console: Console | None = None
) -> Outcome:
    """Run what is not finished, in the order of the plan, or the first `most` of it.

    Raises UsageError when another process runs the experiment there, ResultError for results of another plan, and
    KeyboardInterrupt after Ctrl-C or SIGTERM, once the running step is saved.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    results.mkdir(parents=True, exist_ok=True)
    finished: list[str] = []
    with _only_one(out), _stoppable():
        while True:
            done = finished_runs(experiment, results)
            waiting = [run for run in experiment.runs if run.name not in done]
            blocked = evaluate_gate(experiment, results) is False
            if blocked or not waiting or len(finished) == most:
                return Outcome(tuple(finished), len(waiting), blocked)
            run = waiting[0]
            console.print(f"{run.name}: begins; {counted(waiting, 'run')} to go")
            do_run(experiment, run, out, results, console)
            finished.append(run.name)


def do_run(experiment: Experiment, run: Planned, out: Path, results: Path, console: Console) -> None:
    """Train, edit and judge one run, from wherever it was stopped, and write its result."""
    from tagmoe.laboratory.registered import work
    from tagmoe.laboratory.registered.machine import kind_of_machine

    here = kind_of_machine()
    base, job = jobs_of(experiment, run, out)
    if not base.model.exists():
        _begin(base, here, console)
        work.train(base, console)
        shutil.rmtree(base.folder / "run" / "checkpoints", ignore_errors=True)
    restarts = _begin(job, here, console)
    try:
        if not job.model.exists():
            work.train(job, console)
        result = work.examined(job)
    except DivergedError as error:
        result = work.diverged(job, str(error))
    RegisteredRun(
        plan=experiment.digest,
        arm=run.arm.name,
        about=run.arm.about,
        conflict=run.conflict,
        seed=run.seed,
        settings=portable(job.config),
        cases=job.plan or {},
        processor=here["processor"],
        restarts=restarts,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **result,
    ).write(results / f"{run.name}.json")
    for path in (job.folder / "run" / "checkpoints", *job.folder.glob("edits-*"), *job.folder.glob("verdicts-*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def jobs_of(experiment: Experiment, run: Planned, out: Path) -> tuple[Job, Job]:
    """The base of a run's seed, which all its arms share, and the run itself."""
    named = replace(run.arm, name=run.name.removesuffix(f"-seed-{run.seed}"))
    plan = {k: v for k, v in experiment.plan.cases.model_dump(mode="json").items() if v is not None}
    return base_job(out, run.seed, experiment.runs[0].arm), arm_job(out, run.seed, named, plan)


def _begin(job: Job, here: dict[str, str], console: Console) -> int:
    """Make ready to run a job. One that was begun elsewhere or otherwise is begun again. Returns how often it was."""
    begun = job.folder / BEGUN
    restarts = 0
    if begun.is_file():
        before = json.loads(begun.read_text(encoding="utf-8"))
        restarts = int(before["restarts"])
        other = [name for name, value in here.items() if before["here"].get(name) != value]
        if not other:
            try:
                job.write()
                return restarts
            except ResultError:
                other = ["settings"]
        console.print(f"{job.arm} seed {job.config.seed}: begun with another {', '.join(other)}, so it starts again")
        shutil.rmtree(job.folder)
        restarts += 1
    job.write()
    write_whole(begun, json.dumps({"here": here, "restarts": restarts}))
    return restarts


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the experiment's lock, and say in runner.json which process does."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another process runs the experiment in {str(out)!r}; pause it first.") from error
        write_whole(out / RUNNER, json.dumps({"pid": os.getpid()}))
        try:
            yield
        finally:
            (out / RUNNER).unlink(missing_ok=True)


def runs_now(out: Path) -> bool:
    """Whether a process runs the experiment of this folder."""
    if not (out / LOCK).is_file():
        return False
    with (out / LOCK).open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def pause(out: Path, *, patience: float = 120.0) -> bool:
    """Ask the process that runs the experiment to save and end, and wait for it. False when none runs.

    Raises UsageError when it has not ended after `patience` seconds.
    """
    if not runs_now(out):
        return False
    os.kill(int(json.loads((out / RUNNER).read_text(encoding="utf-8"))["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + patience
    while runs_now(out):
        if time.monotonic() > deadline:
            raise UsageError(f"The process in {str(out)!r} was asked to pause and goes on; wait, or try again.")
        time.sleep(0.2)
    return True


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM stop the process as Ctrl-C does, where training does not handle it itself."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
