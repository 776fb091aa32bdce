"""The protocol of a source: a dataset on disk that can be imported row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tagmoe.data.store.record import Record


@dataclass(frozen=True)
class Licence:
    """Licence of a dataset. name: SPDX identifier, or "none" if the authors state no licence."""

    name: str
    commercial: bool = True
    derivatives: bool = True

    @property
    def restricted(self) -> bool:
        """Whether a user must accept the licence by name: no commercial use, no derivatives, or no licence stated."""
        return self.name == "none" or not (self.commercial and self.derivatives)

    @classmethod
    def named(cls, name: str) -> Licence:
        """The licence of this name. NC in it forbids commercial use, ND forbids derivatives (CC-BY-NC-4.0)."""
        parts = re.split(r"[^A-Z]+", name.upper())
        return cls(name, commercial="NC" not in parts, derivatives="ND" not in parts)

    @property
    def limits(self) -> str:
        """What the licence forbids, in words; empty when it is not restricted."""
        if self.name == "none":
            return "its authors state no licence"
        found = (("no commercial use", self.commercial), ("no derivatives", self.derivatives))
        return " and ".join(text for text, allowed in found if not allowed)


@dataclass(frozen=True)
class Row:
    """One native row of a source, read as records.

    next: the `start` with which `Source.rows` resumes after this row. skipped: one short fixed reason for each record
    that the row should give and cannot ("truncated picture", "low quality"); an import counts rows by these reasons.
    """

    next: int
    records: tuple[Record, ...] = ()
    skipped: tuple[str, ...] = ()


class Source(Protocol):
    """A dataset on disk. Rows come in a fixed order, one at a time, and the same files always give the same rows."""

    name: str
    licence: Licence

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the files and options. An import resumes only if they are equal.

        They are made of names, sizes and options, so that no file is read whole.
        """
        ...

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The native rows from `start` (0 or a `Row.next`) on; rows before it are not read.

        A row that cannot be used comes as a Row with reasons in `skipped`. Raises DataError when the files are not
        those that the source publishes, naming the file and what is missing.
        """
        ...

    def __len__(self) -> int:
        """Number of native rows, estimated if counting would mean reading all of them; for a progress bar."""
        ...
