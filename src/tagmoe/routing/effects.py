"""The effect of switching experts: change of the picture and of success, paired over cases, by task (numpy alone)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.routing.recording import Condition, Interventions
from tagmoe.routing.specialization import RESAMPLES


@dataclass(frozen=True)
class TaskEffect:
    """Of one task's cases: mean change of the picture, and change of the share of successes (None: not judged)."""

    n: int
    change: float
    success: float | None


@dataclass(frozen=True)
class Effect:
    """What one condition did. layer, expert from 0, layer None for all; change and success as in `TaskEffect`, each
    with its interval over cases."""

    mode: str
    layer: int | None
    expert: int | None
    change: Interval[float]
    success: Interval[float] | None
    by_task: dict[str, TaskEffect]
    pictures: dict[str, str]


@dataclass(frozen=True)
class Effects:
    """All conditions. noise: other noise and unchanged routing. success: share without any change; None: not judged."""

    cases: int
    success: float | None
    noise: Effect | None
    switched: tuple[Effect, ...]
    unchanged: dict[str, str]

    def find(self, mode: str, layer: int | None, expert: int) -> Effect | None:
        """The effect of one switch; None when it was not run."""
        wanted = (mode, layer, expert)
        return next((one for one in self.switched if (one.mode, one.layer, one.expert) == wanted), None)


def effects(interventions: Interventions, task_of: Mapping[str, str]) -> Effects:
    """Reduce interventions to effects; `task_of` gives the task of a case's id."""
    tasks = [task_of[name] for name in interventions.cases]
    judged = None not in interventions.success
    before = np.array(interventions.success, dtype=np.float64) if judged else None
    bootstrap = Bootstrap(RESAMPLES)
    found = [_effect(one, before, tasks, bootstrap) for one in interventions.conditions]
    return Effects(
        cases=len(tasks),
        success=None if before is None or not tasks else float(before.mean()),
        noise=next((one for one in found if one.mode == "noise"), None),
        switched=tuple(one for one in found if one.mode != "noise"),
        unchanged=interventions.pictures,
    )


def _effect(condition: Condition, before: np.ndarray | None, tasks: list[str], bootstrap: Bootstrap) -> Effect:
    change = np.array(condition.change)
    success = None
    if before is not None and None not in condition.success:
        success = np.array(condition.success, dtype=np.float64) - before
    labels = np.asarray(tasks)
    return Effect(
        mode=condition.mode,
        layer=condition.layer,
        expert=condition.expert,
        change=bootstrap.mean(change),
        success=None if success is None else bootstrap.mean(success),
        by_task={
            task: TaskEffect(
                n=int((labels == task).sum()),
                change=float(change[labels == task].mean()),
                success=None if success is None else float(success[labels == task].mean()),
            )
            for task in dict.fromkeys(tasks)
        },
        pictures=condition.pictures,
    )
