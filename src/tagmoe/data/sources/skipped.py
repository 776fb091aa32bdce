"""Turn what a source reads into a Row: the records, or the reasons for skipping them, some of which several share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tagmoe.data.sources.source import Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record

NO_INSTRUCTION = "no instruction"
OTHER_SIZE = "pictures of different sizes"
NO_ID = "no id"
HELD_OUT = "held-out split"


def row(
    next_start: int,
    *makers: Callable[[], Record],
    origin: str = "",
    files: Sequence[str | Path] = (),
    key: bytes = b"",
) -> Row:
    """A Row with the record of each maker, or with the reason where a maker raises UnusableRow.

    The makers are called when the row is read. origin, files, key: as in `Row`.
    """

    def make() -> tuple[list[Record], list[str]]:
        records: list[Record] = []
        skipped: list[str] = []
        for maker in makers:
            try:
                records.append(maker())
            except UnusableRow as reason:
                skipped.append(str(reason))
        return records, skipped

    return Row(next_start, origin=origin, files=files, key=key, make=make)


def instruction(value: Any) -> str:
    """The text without blanks around it. Raises UnusableRow for an empty text or a value that is no text."""
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(NO_INSTRUCTION)
    return value.strip()
