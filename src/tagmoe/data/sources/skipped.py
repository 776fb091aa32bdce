"""Why a record that a row should give is not there: the reasons, and what raises them.

The reasons of unreadable pictures are those of `tagmoe.data.picture_file`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tagmoe.data.picture_file import read_picture
from tagmoe.data.record import Picture, Record, Role
from tagmoe.data.sources.source import Row
from tagmoe.errors import ImageError

NO_INSTRUCTION = "no instruction"
MISSING_PICTURE = "missing picture"
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


class Skipped(Exception):
    """One record cannot be made; its text is one of the reasons."""


def row(next_start: int, *makers: Callable[[], Record]) -> Row:
    """The Row with what these makers give; each that raises Skipped leaves its reason instead."""
    records: list[Record] = []
    skipped: list[str] = []
    for make in makers:
        try:
            records.append(make())
        except Skipped as reason:
            skipped.append(str(reason))
    return Row(next_start, tuple(records), tuple(skipped))


def picture(data: bytes | None, role: Role = "source", *, missing: str = MISSING_PICTURE) -> Picture:
    """A picture of these bytes. Raises Skipped for None and for what is no picture."""
    if data is None:
        raise Skipped(missing)
    try:
        return read_picture(data, role)
    except ImageError as error:
        raise Skipped(str(error)) from None


def instruction(value: Any) -> str:
    """The text without blanks around it. Raises Skipped for what is none or empty."""
    if not isinstance(value, str) or not value.strip():
        raise Skipped(NO_INSTRUCTION)
    return value.strip()
