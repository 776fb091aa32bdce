"""Mend an answer that does not fit its schema, where its meaning is plain. Each kind of mending has a name, for counts.

Nothing is guessed: a value that is missing, or is none of those allowed in any spelling, stays wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

SPELLING = "mended: another spelling of a name or value"
EXTRA = "mended: a field that was not asked for"
WRAPPED = "mended: something around the answer"
SINGLE = "mended: one value where a list was asked for"


def mended(value: Any, schema: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """(the value, nearer to its schema; what was mended, each kind once). The value itself is not changed."""
    notes: dict[str, None] = {}
    return _mended(value, schema, notes), tuple(notes)


def _mended(value: Any, schema: Mapping[str, Any], notes: dict[str, None]) -> Any:
    if "enum" in schema:
        return _spelled(value, schema["enum"], notes)
    if "properties" in schema:
        return _object(_unwrapped(value, schema, notes), schema, notes)
    if schema.get("type") == "array":
        if isinstance(value, str):
            value = [value]
            notes[SINGLE] = None
        if isinstance(value, list):
            return [_mended(item, schema.get("items", {}), notes) for item in value]
    return value


def _object(value: Any, schema: Mapping[str, Any], notes: dict[str, None]) -> Any:
    if not isinstance(value, Mapping):
        return value
    parts = schema["properties"]
    found: dict[str, Any] = {}
    for given, inner in value.items():
        missing = [name for name in parts if name not in value and name not in found]
        name = given if given in parts else _spelled(given, missing, notes)
        if name in parts:
            found[name] = _mended(inner, parts[name], notes)
        elif schema.get("additionalProperties", True) is False:
            notes[EXTRA] = None
        else:
            found[name] = inner
    return found


def _unwrapped(value: Any, schema: Mapping[str, Any], notes: dict[str, None]) -> Any:
    """The object inside a list of one, a text of JSON or the call of a function."""
    inner = value
    if isinstance(inner, list) and len(inner) == 1:
        inner = inner[0]
    if isinstance(inner, Mapping) and not any(name in inner for name in schema["properties"]):
        function = inner.get("function")
        call = function if isinstance(function, Mapping) else inner
        inner = next((call[name] for name in ("arguments", "parameters") if name in call), inner)
    if isinstance(inner, str):
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError):
            return value
    if inner is value or not isinstance(inner, Mapping):
        return value
    notes[WRAPPED] = None
    return inner


def _spelled(value: Any, allowed: Iterable[Any], notes: dict[str, None]) -> Any:
    """The allowed value that this one is in another spelling: case, blanks, hyphens, underscores."""
    if not isinstance(value, str) or value in (known := list(allowed)):
        return value
    alike = [one for one in known if isinstance(one, str) and _plain(one) == _plain(value)]
    if len(alike) != 1:
        return value
    notes[SPELLING] = None
    return alike[0]


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip(" .\"'").casefold()
