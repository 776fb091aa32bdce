"""The steps that ask a model, by the driver of `tagmoe data annotate`: `propose`, `judge`, `recaption`.

Answers are columns: of proposals in the store of roots, of verdicts in that of candidates. Nothing is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tagmoe.annotation.ask.plan import AskPlan
from tagmoe.annotation.ask.store import annotate_store
from tagmoe.annotation.ask.texts import TextPlan
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError
from tagmoe.factory.columns import Column, fate_of, is_salvageable
from tagmoe.factory.judging import JudgeMaker
from tagmoe.factory.meanings import meanings_of
from tagmoe.factory.plan import Judge, Propose, Recaption
from tagmoe.factory.requests import Wish
from tagmoe.factory.verdicts import VerdictPlan
from tagmoe.factory.words import ProposeAsker, RecaptionAsker, RecaptionVerdict, wishes_of
from tagmoe.sentences import counted
from tagmoe.vlm.question import VLM

if TYPE_CHECKING:
    from tagmoe.factory.synthesize import Run

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class ProposalPlan(TextPlan):
    """Proposals, in a column of the roots. name: of the plan, as several plans may share roots."""

    name: str

    @property
    def column(self) -> str:
        return proposals_column(self.name)


@dataclass(frozen=True)
class _MakeProposer:
    vlm: Callable[[], VLM]
    step: Propose
    tasks: tuple[str, ...]
    pixels: int

    def __call__(self) -> ProposeAsker:
        return ProposeAsker(self.vlm(), tasks=self.tasks, count=self.step.count, pixels=self.pixels)


@dataclass(frozen=True)
class _MakeRecaptioner:
    vlm: Callable[[], VLM]
    pixels: int

    def __call__(self) -> RecaptionVerdict:
        return RecaptionVerdict(RecaptionAsker(self.vlm(), pixels=self.pixels))


def proposals_column(plan: str) -> str:
    """The column of the roots with the proposals for a plan."""
    return f"proposals_{plan}"


def propose(run: Run, roots: Store, place: int, rows: Sequence[int], met: set[str]) -> dict[int, list[Wish]]:
    """The instructions that a model wrote for these roots; tasks whose quota is met are not asked for."""
    step = run.plan.steps[place]
    assert isinstance(step, Propose)
    vlm = run.plan.vlm_of(step)
    tasks = tuple(task for task in step.tasks if task not in met) or step.tasks
    only = np.zeros(len(roots), dtype=bool)
    only[list(rows)] = True
    column = proposals_column(run.plan.name)
    plan = ProposalPlan(only=only, in_flight=2 * vlm.concurrency, name=run.plan.name)
    make = _MakeProposer(run.means.vlm(vlm), step, tasks, vlm.pixels)
    with run.spending(f"{place + 1} propose"), run.means.bar(f"{place + 1} propose") as progress:
        _ask(roots, make, plan, run, progress)
    found: dict[int, list[Wish]] = {}
    meanings = meanings_of(step.sentences)
    opened = Store.open(roots.uri)
    table = opened.take(list(rows), [column]).to_pylist() if rows else []
    for row, values in zip(rows, table, strict=True):
        said = values[column]
        if said is not None and said["status"] == "ok":
            found[row] = wishes_of(said["text"], step.alike, meanings)[0]
    return found


def ask_candidates(run: Run, store: Store, column: Column, before: Sequence[Column], progress: Progress) -> None:
    """Ask about the candidates that stand; of those that a judge dropped, what really changed is asked as well."""
    step = column.step
    assert isinstance(step, Judge | Recaption)
    vlm = run.plan.vlm_of(step)
    only = np.zeros(len(store), dtype=bool)
    row = 0
    for batch in store.scan([one.name for one in before] or ["id"], rows=8192):
        for values in batch.to_pylist():
            fate = fate_of(values, before)
            salvage = isinstance(step, Recaption) and step.salvage and is_salvageable(fate, before)
            only[row] = fate is None or salvage
            row += 1
    plan = VerdictPlan(only=only, in_flight=2 * vlm.concurrency, name=column.name)
    make: Callable[[], Any] = (
        JudgeMaker(step, run.means.vlm(vlm))
        if isinstance(step, Judge)
        else _MakeRecaptioner(run.means.vlm(vlm), vlm.pixels)
    )
    _ask(store, make, plan, run, progress)


def _ask(store: Store, make: Callable[[], Any], plan: AskPlan[Any], run: Run, progress: Progress) -> None:
    done = annotate_store(store, make, plan, progress=progress, **run.means.where)
    if done.asked["failed"]:
        reason = next(reason for (status, reason), _ in done.reasons.most_common() if status == "failed")
        raise DataError(
            f"{counted(done.asked['failed'], 'question')} of the step {plan.column} got no answer, most for this "
            f"reason: {reason.rstrip('.')}. The answers so far are kept; run the same command again."
        )
