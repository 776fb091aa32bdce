"""What a model said of a candidate, as an answer that the driver of `tagmoe data annotate` keeps (VERDICT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from tagmoe.annotation.ask.plan import AskPlan
from tagmoe.factory.folder import VERDICT
from tagmoe.vlm.question import Status


@dataclass(frozen=True)
class VerdictAnswer:
    """A verdict. passed: false unless the status is ok. The other fields are those of VERDICT and of `Annotation`."""

    status: Status
    passed: bool
    score: float | None = None
    reason: str = ""
    values: str | None = None
    raw: str = ""
    key: str = ""
    model: str = ""
    by_server: bool = field(default=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def signed(self, key: str, model: str) -> VerdictAnswer:
        """The same with its key and its model."""
        return replace(self, key=key, model=model)

    def to_row(self) -> dict[str, Any]:
        """The answer as a value of VERDICT."""
        return {name: getattr(self, name) for name in VERDICT.names}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> VerdictAnswer:
        """The answer of a value of VERDICT."""
        return cls(**row)


@dataclass(frozen=True)
class VerdictPlan(AskPlan[VerdictAnswer]):
    """Verdicts, in the column of a step."""

    name: str

    @property
    def column(self) -> str:
        return self.name

    @property
    def kind(self) -> pa.DataType:
        return VERDICT

    def read(self, row: Mapping[str, Any]) -> VerdictAnswer:
        return VerdictAnswer.from_row(row)
