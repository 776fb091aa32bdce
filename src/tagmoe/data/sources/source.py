"""What an importer asks of a source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tagmoe.data.store.record import Record


@dataclass(frozen=True)
class Licence:
    """Terms of a dataset. name: SPDX identifier, or "none" where its authors state nothing."""

    name: str
    commercial: bool = True
    derivatives: bool = True

    @property
    def restricted(self) -> bool:
        """Whether a user must accept it by name: no commercial use, no derivatives, or no licence at all."""
        return self.name == "none" or not (self.commercial and self.derivatives)

    @classmethod
    def named(cls, name: str) -> Licence:
        """The terms that a name such as CC-BY-NC-4.0 says: NC is no commercial use, ND no derivatives."""
        parts = re.split(r"[^A-Z]+", name.upper())
        return cls(name, commercial="NC" not in parts, derivatives="ND" not in parts)

    @property
    def limits(self) -> str:
        """What the licence keeps a user from, in words; empty when it is not restricted."""
        if self.name == "none":
            return "its authors state no licence"
        found = (("no commercial use", self.commercial), ("no derivatives", self.derivatives))
        return " and ".join(text for text, allowed in found if not allowed)


@dataclass(frozen=True)
class Row:
    """One native row. next: where to start to go on after it; skipped: a short fixed reason for each record that the
    row should have given and does not, counted by reason ("truncated picture", "low quality")."""

    next: int
    records: tuple[Record, ...] = ()
    skipped: tuple[str, ...] = ()


class Source(Protocol):
    """A dataset on disk. Rows come in a fixed order, one at a time, and the same files always give the same rows."""

    name: str
    licence: Licence

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that tell these files and options from others: an import is only resumed on the same ones.

        Names, sizes and options; no file is read whole for it.
        """
        ...

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The native rows from number `start` (0 or some `Row.next`), without reading those before it again.

        A row that cannot be used is given as skipped, never left out and never raised. Raises DataError when the
        files are not what the source publishes, naming the file and what is missing.
        """
        ...

    def __len__(self) -> int:
        """Number of native rows, as far as it is known without reading all of them; for a progress bar."""
        ...
