"""Check the options of sources: texts from the command line, values from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tagmoe.errors import UsageError

_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def yes_or_no(name: str, value: Any) -> bool:
    """A bool from yes, no, true, false, 1 or 0. Raises UsageError for anything else."""
    found = _YES.get(str(value).lower())
    if found is None:
        raise UsageError(f"The option {name} is {value!r}; give yes or no.")
    return found


def whole_number(name: str, value: Any, least: int) -> int:
    """An integer of at least `least`. Raises UsageError for anything else."""
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise UsageError(f"The option {name} is {value!r}; give a whole number of at least {least}.")
    return number


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, if it is one of `allowed`. Raises UsageError otherwise."""
    if value not in allowed:
        raise UsageError(f"The option {name} is {value!r}; choose one of {', '.join(allowed)}.")
    return str(value)
