"""The columns of the candidates: what each step said of them, and so what became of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tagmoe.factory.plan import Check, Judge, Measure, Plan, Recaption
from tagmoe.factory.specialists.settings import Make
from tagmoe.factory.step import Step

FILTERS = (Check, Measure, Judge, Recaption)
SALVAGED = "salvaged"


@dataclass(frozen=True)
class Column:
    """The column of a step. place: of the step in the plan, from 0."""

    place: int
    step: Step

    @property
    def name(self) -> str:
        """Its name in the store."""
        return f"step_{self.place + 1}_{kind_of(self.step)}"

    @property
    def title(self) -> str:
        """The step as it is called in tables."""
        return title_of(self.place, self.step)


@dataclass(frozen=True)
class Fate:
    """Where a row was dropped, and why."""

    place: int
    reason: str


def kind_of(step: Step) -> str:
    """What a step does in a word; of a specialist, its name."""
    return step.by if isinstance(step, Make) else step.step


def title_of(place: int, step: Step) -> str:
    """A step as it is called in tables and in lineages, as "2 edit"."""
    return f"{place + 1} {kind_of(step)}"


def columns(plan: Plan) -> list[Column]:
    """The columns of a plan, in the order of its steps. A specialist's holds what it says of its own pairs; it is empty
    in the rows of other makers."""
    return [Column(place, step) for place, step in enumerate(plan.steps) if isinstance(step, (Make, *FILTERS))]


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
        elif said is None and isinstance(column.step, Make):
            continue
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
