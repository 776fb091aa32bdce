"""Values of repeated options NAME=NUMBER."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from tagmoe.errors import UsageError


def named_numbers(
    given: Iterable[str], option: str, advice: str, names: Collection[str] | None = None
) -> dict[str, float]:
    """{name: number} of NAME=NUMBER texts; `names` are those allowed, by default all.

    Raises UsageError, with the advice what to give, for any other text and for a name that is given twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        is_known = names is None or name in names
        name = name.strip()
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not is_known or not math.isfinite(number) or name in found:
            raise UsageError(f"{option} is {text!r}; {advice}.")
        found[name] = number
    return found
