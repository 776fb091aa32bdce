"""Tables as CSV text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any


def csv_text(rows: Sequence[Sequence[Any]], *, digits: int | None = None) -> str:
    """Rows as CSV, the head first; shorter rows get empty cells at their end. None and NaN are empty.

    digits: how many significant digits floats have, by default all.
    """
    width = len(rows[0])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([*(_cell(value, digits) for value in row), *[""] * (width - len(row))] for row in rows)
    return buffer.getvalue()


def _cell(value: Any, digits: int | None) -> Any:
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return ""
    return value if digits is None else f"{value:.{digits}g}"
