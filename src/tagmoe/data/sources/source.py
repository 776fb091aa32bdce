"""The protocol of a source: a dataset on disk that can be imported row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tagmoe.data.store.record import Record

NO_TRAINING = "LicenseRef-no-training"
"""The name of terms that forbid training on what a model makes; SPDX has none for them."""


@dataclass(frozen=True)
class Licence:
    """Licence of a dataset. name: SPDX identifier, several joined by AND, or "none" if the authors state no licence."""

    name: str
    commercial: bool = True
    derivatives: bool = True
    training: bool = True

    @property
    def restricted(self) -> bool:
        """Whether a user must accept the licence by name: it forbids some use, or no licence is stated."""
        return self.name == "none" or not (self.commercial and self.derivatives and self.training)

    @classmethod
    def named(cls, name: str) -> Licence:
        """The licence of this name. NC in it forbids commercial use, ND forbids derivatives (CC-BY-NC-4.0)."""
        parts = re.split(r"[^A-Z]+", name.upper())
        forbidden = NO_TRAINING.upper() in name.upper()
        return cls(name, commercial="NC" not in parts, derivatives="ND" not in parts, training=not forbidden)

    @property
    def limits(self) -> str:
        """What the licence forbids, in words; empty when it is not restricted."""
        if self.name == "none":
            return "its authors state no licence"
        found = (
            ("no commercial use", self.commercial),
            ("no derivatives", self.derivatives),
            ("no training", self.training),
        )
        return " and ".join(text for text, allowed in found if not allowed)


class Row:
    """One native row of a source, read as records when they are first asked for.

    next: the `start` with which `Source.rows` resumes after this row; it names the row. records: of the row. skipped:
    one short fixed reason for each record that the row should give and cannot ("truncated picture", "low quality"); an
    import counts rows by these reasons. origin: where the row stands, as "file:number". files: those that the row
    reads. key: bytes of the row itself. An import looks at a row again when its key, or the size or time of one of its
    files, is another one than before.
    """

    def __init__(
        self,
        next: int,
        records: Sequence[Record] = (),
        skipped: Sequence[str] = (),
        *,
        origin: str = "",
        files: Sequence[str | Path] = (),
        key: bytes = b"",
        make: Callable[[], tuple[Sequence[Record], Sequence[str]]] | None = None,
    ) -> None:
        """make: gives records and reasons, if they are not given."""
        self.next, self.origin, self.files, self.key = next, origin or f"row {next}", tuple(files), key
        self._made = None if make else (tuple(records), tuple(skipped))
        self._make = make

    @property
    def records(self) -> tuple[Record, ...]:
        return self._read()[0]

    @property
    def skipped(self) -> tuple[str, ...]:
        return self._read()[1]

    def _read(self) -> tuple[tuple[Record, ...], tuple[str, ...]]:
        if self._made is None:
            assert self._make is not None
            records, skipped = self._make()
            self._made = tuple(records), tuple(skipped)
        return self._made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return False
        return (self.next, self.records, self.skipped) == (other.next, other.records, other.skipped)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Row({self.next}, {self.records}, {self.skipped})"


class Source(Protocol):
    """A dataset on disk. Rows come in a fixed order, one at a time, and the same files always give the same rows."""

    name: str
    licence: Licence

    def identity(self) -> Mapping[str, Any]:
        """JSON values for what the user named: kind, place and options. They stay when the files change."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files. An unfinished import resumes only if they are equal.

        They are made of names, sizes and times, so that no file is read whole.
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
