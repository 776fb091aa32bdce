"""The test cases of TagWorld, as every evaluation draws them."""

from __future__ import annotations

from collections.abc import Sequence

from tagmoe.errors import UsageError
from tagmoe.world import TASKS, Sample, sample


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
