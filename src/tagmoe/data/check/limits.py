"""Settings of named checks: a limit, `on` or `off`, as `--check NAME=VALUE` gives them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from tagmoe.errors import UsageError

OFF = "off"


def limits_of(
    settings: Mapping[str, str] | None, defaults: Mapping[str, float | None], off: Collection[str] = ()
) -> dict[str, float | None]:
    """The limit of each check that is made: the defaults with these settings. Checks that are off are left out.

    defaults: the limit of each check, None where it has none. off: those that are off unless they are set. Raises
    UsageError for an unknown check and for a value that is none of a limit, `on` and `off`.
    """
    limits = {name: limit for name, limit in defaults.items() if name not in off}
    for name, value in (settings or {}).items():
        if name not in defaults:
            raise UsageError(f"There is no check {name!r}; choose among {', '.join(defaults)}.")
        if value == OFF:
            limits.pop(name, None)
        elif value == "on":
            limits[name] = defaults[name]
        else:
            limits[name] = _limit(name, value, defaults[name])
    return limits


def _limit(name: str, value: str, default: float | None) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if default is None or not 0 <= found < math.inf:
        given = "on or off" if default is None else f"on, off or a limit from 0 (by default {default:g})"
        raise UsageError(f"The check {name!r} is set to {value!r}; give {given}.")
    return found
