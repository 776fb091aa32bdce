"""Values of repeated options NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from tagmoe.errors import UsageError


def assigned(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """{name: value} of repeated NAME=VALUE options. Raises UsageError without =, and for a name that is given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{option} {text!r} is not understood; write {option} NAME=VALUE.")
        if key in found:
            raise UsageError(f"{option} gives {key!r} twice; give it once.")
        found[key] = value
    return found
