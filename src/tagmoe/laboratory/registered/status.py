"""How far a registered experiment is, and how long it still takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tagmoe.laboratory.registered.gate import GATE, evaluate_gate, finished_runs
from tagmoe.laboratory.registered.plan import Experiment
from tagmoe.laboratory.registered.result import RegisteredRun
from tagmoe.laboratory.registered.runner import jobs_of, runs_now


@dataclass(frozen=True)
class Status:
    """done, left: numbers of runs; the one that runs or was stopped is among those left.

    next: the name of the next run, and share: the share of its training steps that are done. hours: of the runs left;
    None before a run is done. gate: "open" before it was looked at, else "passed" or "stopped".
    """

    done: int
    left: int
    seeds_done: tuple[int, ...]
    running: bool
    next: str | None
    share: float
    hours: float | None
    gate: str

    def sentence(self) -> str:
        """The status in a line."""
        if self.next is None:
            return f"{self.done} runs done; none left."
        hours = "unknown until the first run is done" if self.hours is None else f"{self.hours:.1f} hours to go"
        return (
            f"{self.done} runs done (whole seeds: {', '.join(map(str, self.seeds_done)) or 'none'}), "
            f"{'running' if self.running else 'stopped at'} {self.next} ({self.share:.0%} of its steps), "
            f"{self.left} left, {hours}; gate {self.gate}."
        )


def status_of(experiment: Experiment, out: Path, results: Path) -> Status:
    """The status from the files of the experiment. Raises ResultError for results of another plan."""
    done = finished_runs(experiment, results)
    waiting = [run for run in experiment.runs if run.name not in done]
    share = 0.0
    if waiting:
        _, job = jobs_of(experiment, waiting[0], out)
        share = job.steps_done() / max(1, job.steps)
    gate = "open"
    if experiment.plan.gate is not None and (results / GATE).is_file():
        gate = "stopped" if evaluate_gate(experiment, results) is False else "passed"
    return Status(
        done=len(done),
        left=len(waiting),
        seeds_done=tuple(experiment.seeds_done(set(done))),
        running=runs_now(out),
        next=waiting[0].name if waiting else None,
        share=share,
        hours=_hours([run.arm.name for run in waiting], done, share),
        gate=gate,
    )


def _hours(waiting: list[str], done: Mapping[str, RegisteredRun], share: float) -> float | None:
    """The time of the runs left: that of the same arm where it has been run, else the mean of all."""
    if not done:
        return None
    seconds: dict[str, list[float]] = {}
    for run in done.values():
        seconds.setdefault(run.arm, []).append(sum(run.seconds.values()))
    mean = fmean(value for values in seconds.values() for value in values)
    each = [fmean(seconds[arm]) if arm in seconds else mean for arm in waiting]
    return (sum(each) - share * (each[0] if each else 0.0)) / 3600
