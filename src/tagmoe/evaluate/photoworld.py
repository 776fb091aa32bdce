"""PhotoWorld: run an editor on pairs of held-out objects and grounds, and judge its pictures by their exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.intervals import Interval, wilson
from tagmoe.photoworld import TASKS, PhotoWorld, Sample, Verdict, judge
from tagmoe.photoworld.sample import Split


@dataclass(frozen=True)
class TaskScore:
    """Shares of one task: successes, edits that are done whatever became of the rest, unchanged blocks outside (None:
    nothing is outside), and the means of way and rest (`tagmoe.photoworld.judge`)."""

    task: str
    success: Interval[float]
    edit_done: Interval[float]
    unchanged: float | None
    way: float
    rest: float

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        shares = {"success": self.success.as_data(), "edit_done": self.edit_done.as_data()}
        return {"task": self.task, "n": self.success.n, **shares, **_numbers(self)}


@dataclass(frozen=True)
class PhotoWorldScores:
    """Scores over all cases and by task; the names of `tasks` have the variant behind a slash. verdicts: by case."""

    success: Interval[float]
    tasks: tuple[TaskScore, ...]
    verdicts: tuple[Verdict, ...]


def cases(
    world: PhotoWorld, per_task: int, seed: int, tasks: Sequence[str] | None = None, split: Split = "test"
) -> list[Sample]:
    """`per_task` pairs of every task (or of `tasks`), in the order of tasks. A smaller number gives the first.

    Raises UsageError for an unknown task, fewer than one case, and a split that the world lacks.
    """
    if per_task < 1:
        raise UsageError(f"The number of cases a task is {per_task}; give 1 or more.")
    number = {task: place for place, task in enumerate(TASKS)}
    return [
        # numbered apart, so that no two tasks have the same scene
        world.sample(seed, i * len(TASKS) + number.get(task, 0), split=split, task=task)
        for task in (TASKS if tasks is None else tasks)
        for i in range(per_task)
    ]


def score(samples: Sequence[Sample], images: Sequence[np.ndarray]) -> PhotoWorldScores:
    """Judge every picture against its case. Raises UsageError when there are no cases."""
    if not samples:
        raise UsageError("There are no cases to score; give at least one.")
    verdicts = tuple(judge(case, image) for case, image in zip(samples, images, strict=True))
    rows: dict[str, list[Verdict]] = {}
    for case, verdict in zip(samples, verdicts, strict=True):
        rows.setdefault(case.task, []).append(verdict)
        if case.task in ("add", "replace", "background"):
            rows.setdefault(f"{case.task}/{case.variant}", []).append(verdict)
    tasks = tuple(_task_score(task, rows[task]) for task in sorted(rows, key=list(rows).index))
    return PhotoWorldScores(_share(verdicts, "success"), tasks, verdicts)


def _share(verdicts: Sequence[Verdict], name: str) -> Interval[float]:
    return wilson(sum(getattr(verdict, name) for verdict in verdicts), len(verdicts))


def _task_score(task: str, rows: Sequence[Verdict]) -> TaskScore:
    present = [row.unchanged for row in rows if row.unchanged is not None]
    return TaskScore(
        task,
        _share(rows, "success"),
        _share(rows, "edit_done"),
        fmean(present) if present else None,
        fmean(row.way for row in rows),
        fmean(row.rest for row in rows),
    )


def _numbers(score: TaskScore) -> dict[str, Any]:
    unchanged = None if score.unchanged is None else round(score.unchanged, 4)
    return {"unchanged": unchanged, "way": round(score.way, 4), "rest": round(score.rest, 4)}
