"""What a run asks of the rows of a store, and where the answers go: tags, better wordings, inverse instructions.

The driver (`tagmoe.annotation.ask.store.annotate_store`) is the same for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tagmoe.annotation.answer import ANNOTATION, Annotation, column_of, take_tags
from tagmoe.annotation.ask.asker import Found
from tagmoe.data.store.record import PROVENANCE, SCHEMA
from tagmoe.errors import UsageError
from tagmoe.vlm.question import STATUSES, Status


@dataclass(frozen=True, kw_only=True)
class AskPlan(Protocol[Found]):
    """Settings of a run.

    retry: statuses to ask again, beside "failed", which is always asked again. in_flight: rows asked at the same time.
    ledgers: folder for uncommitted answers; by default in the store, or in the user's cache for a store in an object
    store. only: of each row of the store, whether it may be asked; None for all rows.
    """

    retry: frozenset[Status] = frozenset()
    in_flight: int = 16
    ledgers: Path | None = None
    only: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise UsageError(f"The number of rows in flight is {self.in_flight}; give 1 or more.")
        unknown = sorted(set(self.retry) - set(STATUSES))
        if unknown or "ok" in self.retry:
            named = unknown[0] if unknown else "ok"
            raise UsageError(f"The status to ask again is {named!r}; it is one of invalid, refused, failed.")

    @property
    @abstractmethod
    def column(self) -> str:
        """The column of the answers. Raises UsageError for an invalid name."""

    @property
    @abstractmethod
    def kind(self) -> pa.DataType:
        """The type of that column."""

    @property
    def beside(self) -> Mapping[str, pa.DataType]:
        """Columns that `take` sets, with their types; none where answers stay in their own column."""
        return {}

    @property
    def reads(self) -> tuple[str, ...]:
        """Further columns that `take` reads."""
        return ()

    @abstractmethod
    def read(self, row: Mapping[str, Any]) -> Found:
        """The answer of a value of the column."""

    def take(self, values: dict[str, Any], found: Any, seed: int) -> bool:
        """Set the columns of `beside` from an answer; returns whether they were set. values: the row, in whose column
        the earlier answer still is. seed: of the asker."""
        return False


@dataclass(frozen=True)
class Plan(AskPlan[Annotation]):
    """Tags. name: of the annotator, for its column. replace_tags: as in `take_tags`."""

    name: str
    replace_tags: bool = False

    def __post_init__(self) -> None:
        column_of(self.name)
        super().__post_init__()

    @property
    def column(self) -> str:
        return column_of(self.name)

    @property
    def kind(self) -> pa.DataType:
        return ANNOTATION

    @property
    def beside(self) -> Mapping[str, pa.DataType]:
        return {"tags": SCHEMA.field("tags").type, "tag_provenance": PROVENANCE}

    def read(self, row: Mapping[str, Any]) -> Annotation:
        return Annotation.from_row(row)

    def take(self, values: dict[str, Any], found: Annotation, seed: int) -> bool:
        return take_tags(values, found, self.name, seed, replace_tags=self.replace_tags)
