"""TagWorld: draw test cases, run an editor on them, let the oracle score the pictures (the role of paper 4.2-4.3).

There is one way to score: `tagmoe demo`, the validation of a training, the laboratory and the metric `oracle` of
`tagmoe eval` all take an output's numbers from `judged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tagmoe.editor import Picture
from tagmoe.errors import UsageError
from tagmoe.intervals import Interval, wilson
from tagmoe.world import TASKS, Sample, Verdict, judge, sample


@dataclass(frozen=True)
class Judged:
    """The oracle's numbers for one output (`tagmoe.world.judge`); None where the case does not ask for it.

    success is strict; edit_done is the score that was published before.
    """

    success: bool
    edit_done: bool
    unchanged: float | None
    subject: float | None
    face: float | None
    style: float | None


@dataclass(frozen=True)
class TaskScore:
    """Shares of a task: of successes, of edits that are done whatever became of the rest, and of the rest that stayed
    (None: the whole picture is new)."""

    task: str
    n: int
    success: float
    edit_done: float
    unchanged: float | None


@dataclass(frozen=True)
class TagWorldScores:
    """Means over the cases to which a score applies; None where there is no such case.

    judged, verdicts: in the order of the cases. held_out: success on seen and held-out phrasings, and on seen and
    held-out combinations of attributes.
    """

    success: Interval[float]
    edit_done: Interval[float]
    unchanged: float | None
    subject: float | None
    face: float | None
    style: float | None
    tasks: tuple[TaskScore, ...]
    held_out: dict[str, Interval[float]]
    judged: tuple[Judged, ...]
    verdicts: tuple[Verdict, ...]


def cases(per_task: int, seed: int, tasks: Sequence[str] | None = None) -> list[Sample]:
    """`per_task` test cases of every task (or of `tasks`), in the order of tasks. A smaller number gives the first.

    Raises UsageError for an unknown task or fewer than one case.
    """
    if per_task < 1:
        raise UsageError(f"The number of cases a task is {per_task}; give 1 or more.")
    number = {name: position for position, name in enumerate(TASKS)}
    # Every case has its own index. With a shared one, the scenes of different tasks would be equal.
    return [
        sample(seed, i * len(TASKS) + number.get(task, 0), split="test", task=task)
        for task in (TASKS if tasks is None else tasks)
        for i in range(per_task)
    ]


def judged(case: Sample, verdict: Verdict) -> Judged:
    """A verdict as the numbers that are averaged."""
    # A picture that is entirely new has nothing that could stay. Its perfect score would only flatter the mean.
    unchanged = verdict.unchanged if case.is_edit else None
    return Judged(verdict.success, verdict.edit_done, unchanged, verdict.subject, verdict.face, verdict.style)


def score(samples: Sequence[Sample], images: Sequence[Picture]) -> TagWorldScores:
    """Judge every picture against its case. Raises UsageError when there are no cases."""
    if not samples:
        raise UsageError("There are no cases to score; give at least one.")
    verdicts = tuple(judge(case, image) for case, image in zip(samples, images, strict=True))
    rows = tuple(map(judged, samples, verdicts))
    pairs = list(zip(samples, rows, strict=True))
    return TagWorldScores(
        success=_share(rows, "success"),
        edit_done=_share(rows, "edit_done"),
        unchanged=_mean(rows, "unchanged"),
        subject=_mean(rows, "subject"),
        face=_mean(rows, "face"),
        style=_mean(rows, "style"),
        tasks=tuple(
            _task_score(task, [row for case, row in pairs if case.task == task])
            for task in dict.fromkeys(case.task for case in samples)
        ),
        held_out={
            "seen phrasing": _share([row for case, row in pairs if not case.held_out_paraphrase]),
            "held-out phrasing": _share([row for case, row in pairs if case.held_out_paraphrase]),
            "seen combination": _share([row for case, row in pairs if not case.held_out_combination]),
            "held-out combination": _share([row for case, row in pairs if case.held_out_combination]),
        },
        judged=rows,
        verdicts=verdicts,
    )


def _share(rows: Sequence[Judged], name: str = "success") -> Interval[float]:
    return wilson(sum(getattr(row, name) for row in rows), len(rows))


def _mean(rows: Sequence[Judged], name: str) -> float | None:
    present = [value for row in rows if (value := getattr(row, name)) is not None]
    return fmean(present) if present else None


def _task_score(task: str, rows: Sequence[Judged]) -> TaskScore:
    success, done = (fmean(getattr(row, name) for row in rows) for name in ("success", "edit_done"))
    return TaskScore(task, len(rows), success, done, _mean(rows, "unchanged"))
