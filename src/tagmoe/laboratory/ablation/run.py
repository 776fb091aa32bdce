"""Run arms x seeds. Each is a process of its own, several run at once, and a later call resumes an earlier one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tagmoe.errors import MissingError, TagMoEError, UsageError
from tagmoe.laboratory.ablation.job import Job
from tagmoe.sentences import counted

MEASURING = 0.15
"""Share of an arm's time that goes to editing and judging its cases, for the estimate of the time left."""
POLL = 1.0


@dataclass
class Failure:
    """A job that did not finish, with the last line of its log."""

    job: Job
    reason: str
    code: int


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


def run_jobs(bases: Sequence[Job], work: Sequence[Job], *, jobs: int = 1, console: Console | None = None) -> Outcome:
    """Run the bases, then the work, `jobs` at once. Finished jobs are not run again.

    A failed job stops no other job, but a failed base stops the work of its seed. On Ctrl-C all jobs save their state
    after the running step and stop. Raises ResultError when a folder holds a job with other settings, and
    KeyboardInterrupt after Ctrl-C.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    for job in (*bases, *work):
        job.write()
    outcome = Outcome()
    with _bar([*bases, *work], console) as show:
        _run([job for job in bases if not job.finished], jobs, outcome, show, console)
        broken = {failure.job.config.seed for failure in outcome.failed}
        ready = [job for job in work if job.config.seed not in broken]
        _run([job for job in ready if not job.finished], jobs, outcome, show, console)
    outcome.done = [job for job in work if job.finished]
    return outcome


def _run(waiting: list[Job], jobs: int, outcome: Outcome, show: Callable[[], None], console: Console) -> None:
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                job = waiting.pop(0)
                running.append((job, _start(job), time.monotonic()))
            time.sleep(POLL)
            show()
            for entry in [entry for entry in running if entry[1].poll() is not None]:
                running.remove(entry)
                job, process, started = entry
                minutes = (time.monotonic() - started) / 60
                name = f"{job.arm} seed {job.config.seed}"
                if process.returncode == 0 and job.finished:
                    console.print(f"{name}: done in {minutes:.1f} min; {len(running) + len(waiting)} to go")
                else:
                    outcome.failed.append(Failure(job, _last_line(job, process.returncode), process.returncode))
                    console.print(f"{name}: failed after {minutes:.1f} min: {outcome.failed[-1].reason}")
    except KeyboardInterrupt:
        # The terminal sent Ctrl-C to the children too. Wait until they have saved and ended.
        for _, process, _ in running:
            process.wait()
        raise


def _start(job: Job) -> subprocess.Popen[bytes]:
    with (job.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tagmoe.laboratory.ablation.job", str(job.folder)],
            stdin=subprocess.PIPE,  # it closes when this process ends, which tells the child to stop
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(job.config.threads or 1)},
        )


def _last_line(job: Job, code: int) -> str:
    lines = (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said.strip()} (exit code {code}; {str(job.folder / 'log.txt')!r} has the rest)"


@contextmanager
def _bar(jobs: Sequence[Job], console: Console) -> Iterator[Callable[[], None]]:
    """One bar over the steps of all jobs. The time left is estimated from the last ten minutes."""

    def units(job: Job) -> float:
        measuring = 0.0 if job.plan is None else MEASURING * job.steps
        return job.steps + measuring if job.finished else float(job.steps_done())

    def units_done() -> float:
        return sum(units(job) for job in jobs)

    total = sum(job.steps * (1 if job.plan is None else 1 + MEASURING) for job in jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=600, refresh_per_second=1
    ) as progress:
        task = progress.add_task("arms", total=total, completed=int(units_done()))

        def show() -> None:
            if progress.disable:
                return
            done = sum(job.finished for job in jobs)
            progress.update(task, completed=units_done(), description=f"{done} of {counted(jobs, 'job')}")

        yield show


def failed(outcome: Outcome) -> TagMoEError | None:
    """The error that names failed jobs; None when all are done."""
    if not outcome.failed:
        return None
    first = outcome.failed[0]
    others = f", and {len(outcome.failed) - 1} more" if len(outcome.failed) > 1 else ""
    # What is missing or misused for a job is so for the command.
    kind = {error.exit_code: error for error in (TagMoEError, UsageError, MissingError)}.get(first.code, TagMoEError)
    return kind(
        f"{first.job.arm} seed {first.job.config.seed} failed{others}: {first.reason}; the same command goes on with "
        "what is not finished."
    )
