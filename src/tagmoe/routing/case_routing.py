"""From routing traces to the numbers of Fig. 6 (paper 4.5): which expert gets how many tokens, and which tokens.

Everything is computed in numpy from traces, without a model, and averaged over the denoising steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from tagmoe.model.routing import RoutingTrace


@dataclass(frozen=True)
class CaseRouting:
    """The routing of one picture, mean over steps. An expert's share: tokens with it as first choice, 0 to 1.

    target_LN, references_LN (None without references): shares; each row sums to 1.
    maps_LhwN: softmax scores of the target's tokens, in the layout of the picture.
    """

    target_LN: np.ndarray
    references_LN: np.ndarray | None
    maps_LhwN: np.ndarray


class Shares(Protocol):
    """Anything with the shares of a case, as in `CaseRouting`."""

    @property
    def target_LN(self) -> np.ndarray: ...

    @property
    def references_LN(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class TaskRouting:
    """The mean routing of a task's cases (one heatmap of Fig. 6), for the tokens of targets and of references."""

    cases: int
    target_LN: np.ndarray
    references_LN: np.ndarray | None


def record(traces: Sequence[RoutingTrace]) -> list[CaseRouting]:
    """The routing of every sample of a batch, from the traces of its denoising steps (paper 4.5).

    Target and reference tokens are kept apart. The paper counts all image tokens, but only the target's are the output.
    """
    target_LBN = _mean([trace.utilisation(0).numpy() for trace in traces])
    maps_LBhwN = _mean([trace.image(0).numpy() for trace in traces])
    references_LBN = None
    if len(traces[0].grids) > 1:
        references_LBN = _mean([_references(trace) for trace in traces])
    return [
        CaseRouting(
            target_LN=target_LBN[:, b],
            references_LN=None if references_LBN is None else references_LBN[:, b],
            maps_LhwN=maps_LBhwN[:, b],
        )
        for b in range(target_LBN.shape[1])
    ]


def by_task(tasks: Sequence[str], cases: Sequence[Shares]) -> dict[str, TaskRouting]:
    """Mean routing of each task (Fig. 6), in order of first appearance; `tasks[i]` is the task of `cases[i]`."""
    grouped: dict[str, list[Shares]] = {}
    for task, case in zip(tasks, cases, strict=True):
        grouped.setdefault(task, []).append(case)
    return {task: mean_routing(members) for task, members in grouped.items()}


def mean_routing(members: Sequence[Shares]) -> TaskRouting:
    """The mean routing of some cases. That of references is the mean over the cases that have any."""
    references = [case.references_LN for case in members if case.references_LN is not None]
    return TaskRouting(
        cases=len(members),
        target_LN=_mean([case.target_LN for case in members]),
        references_LN=_mean(references) if references else None,
    )


def _references(trace: RoutingTrace) -> np.ndarray:
    """Shares over the tokens of all references, (L, B, N): the mean over images, weighted by their token counts."""
    tokens = np.array([prod(grid) for grid in trace.grids[1:]], dtype=np.float64)
    shares = np.stack([trace.utilisation(image).numpy() for image in range(1, len(trace.grids))])
    return np.tensordot(tokens / tokens.sum(), shares, axes=1)


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(np.stack(arrays), axis=0, dtype=np.float64))
