"""Base class of the sources that read published Parquet files: everything but how a row becomes records."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.files import picture
from tagmoe.data.sources.parquet_rows import Column, ParquetRow, ParquetRows
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Record, Role


class PublishedParquet(ABC):
    """A source on Parquet files. A subclass names its columns and makes records of a row."""

    name: str
    licence: Licence
    columns: ClassVar[Sequence[Column]]
    records_a_row: ClassVar[int] = 1

    def __init__(
        self,
        path: Path,
        *,
        options: Mapping[str, Any] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """options: those that change the records, for the fingerprint. left_out: splits that give no record, with the
        reason of each. Raises DataError for missing or damaged files.
        """
        self._path = path
        self.files = ParquetRows(path, self.columns)
        self._options = dict(options or {})
        self._left_out = dict(left_out or {})

    def identity(self) -> Mapping[str, Any]:
        return {"source": self.name, "path": str(self._path.resolve()), "options": self._options}

    def fingerprint(self) -> Mapping[str, Any]:
        return {"source": self.name, **self.files.fingerprint(), "options": self._options}

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, start: int = 0) -> Iterator[Row]:
        for found in self.files.read(start, left_out=frozenset(self._left_out)):
            if found.split in self._left_out:
                reasons = (self._left_out[found.split],) * self.records_a_row
                yield Row(found.next, skipped=reasons, origin=found.origin, files=[found.path])
            else:
                makers = (partial(self.record, found, place) for place in range(self.records_a_row))
                yield row(found.next, *makers, origin=found.origin, files=[found.path])

    @abstractmethod
    def record(self, found: ParquetRow, place: int) -> Record:
        """The record at `place` among the `records_a_row` of a row. Raises UnusableRow."""


def picture_in(value: Any, role: Role = "source") -> Picture:
    """The picture in a picture column. Raises UnusableRow when there is none or it cannot be read.

    A path without bytes names a file on the machine that wrote the row, and is not followed.
    """
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if data is None:
        raise UnusableRow("row without its picture")
    return picture(data, role)


def scores(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The values of these names that are finite numbers."""
    found = {name: values[name] for name in names if isinstance(values.get(name), int | float)}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def caption(value: Any) -> str | None:
    """The text without blanks around it; None if it is empty or no text."""
    return value.strip() or None if isinstance(value, str) else None
