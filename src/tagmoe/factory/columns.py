"""The columns of the candidates: what each step that looks at them said, and so what became of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tagmoe.factory.plan import Check, Judge, Plan, Recaption, Step

FILTERS = (Check, Judge, Recaption)
SALVAGED = "salvaged"


@dataclass(frozen=True)
class Column:
    """The column of a step. place: of the step in the plan, from 0."""

    place: int
    step: Step

    @property
    def name(self) -> str:
        """Its name in the store."""
        return f"step_{self.place + 1}_{getattr(self.step, 'step')}"  # noqa: B009

    @property
    def title(self) -> str:
        """The step as it is called in tables."""
        return f"{self.place + 1} {getattr(self.step, 'step')}"  # noqa: B009


@dataclass(frozen=True)
class Fate:
    """Where a row was dropped, and why."""

    place: int
    reason: str


def columns(plan: Plan) -> list[Column]:
    """The columns of a plan, in the order of its steps."""
    return [Column(place, step) for place, step in enumerate(plan.steps) if isinstance(step, FILTERS)]


def fate_of(row: Mapping[str, Any], looked: Sequence[Column]) -> Fate | None:
    """Where a row was dropped by these steps; None where it stands. row: with their columns.

    A row whose words are rewritten to what the picture shows stands again, if only a judge of the words refused it.
    """
    fate: Fate | None = None
    for column in looked:
        said = row.get(column.name)
        if isinstance(column.step, Recaption):
            if is_salvageable(fate, looked) and column.step.salvage and said is not None and said["passed"]:
                fate = None
        elif fate is None and (said is None or not said["passed"]):
            fate = Fate(column.place, "not looked at yet" if said is None else said["reason"])
    return fate


def is_salvageable(fate: Fate | None, looked: Sequence[Column]) -> bool:
    """Whether a judge alone dropped a row."""
    return fate is not None and any(one.place == fate.place and isinstance(one.step, Judge) for one in looked)


def score_of(row: Mapping[str, Any], looked: Sequence[Column]) -> float:
    """The mean of what the judges gave a row; 0 without any."""
    scores = [
        said["score"]
        for column in looked
        if isinstance(column.step, Judge) and (said := row.get(column.name)) and said["score"] is not None
    ]
    return sum(scores) / len(scores) if scores else 0.0
