"""Reasons for skipping a row of a published dataset.

Reasons for unreadable pictures are in `tagmoe.data.store.picture_file` and `tagmoe.data.sources.files`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tagmoe.data.sources.source import Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record

NO_INSTRUCTION = "no instruction"
MISSING_PICTURE = "row without its picture"
MISSING_MASK = "missing mask"
MISSING_GARMENT = "missing garment"
MISSING_FOLDER = "missing folder or prompt file"
DAMAGED_PICTURE = "damaged picture"
DAMAGED_LINE = "damaged line"
OTHER_SIZE = "pictures of different sizes"
TOO_SMALL = "picture too small to crop"
NO_ID = "no id"
NO_SCORE = "no quality score"
LOW_SCORE = "low quality score"
INVALID_DESCRIPTION = "description marked invalid"
UNPAIRED = "unpaired garment, no target"
HELD_OUT = "held-out split"
TEST = "test set of a benchmark"
TEST_UNPAIRED = "test list, unpaired and without target"


def row(next_start: int, *makers: Callable[[], Record]) -> Row:
    """A Row with the record of each maker, or with the reason where a maker raises UnusableRow."""
    records: list[Record] = []
    skipped: list[str] = []
    for make in makers:
        try:
            records.append(make())
        except UnusableRow as reason:
            skipped.append(str(reason))
    return Row(next_start, tuple(records), tuple(skipped))


def instruction(value: Any) -> str:
    """The text without blanks around it. Raises UnusableRow for an empty text or a value that is no text."""
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(NO_INSTRUCTION)
    return value.strip()
