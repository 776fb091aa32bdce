"""What was drawn in a browser: kept in its own storage, so that a reload loses nothing, and never on the server."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from tagmoe.pictures import png_of

MOST = 24
"""Entries of a history."""
MOST_BYTES = 2_000_000
"""Bytes of its pictures that a browser is asked to keep; browsers give a page about 5 MB, and encoding needs twice."""
FACTS = ("instruction", "prompt", "negative", "seed", "steps", "cfg", "size", "lora")


@dataclass(frozen=True)
class Entry:
    """One result. facts: how it was made, by the names in FACTS. before: the picture that was edited, if any."""

    facts: dict[str, Any]
    before: bytes | None
    after: bytes

    @property
    def caption(self) -> str:
        """What stands under it."""
        return f"{self.facts.get('instruction', '')} (seed {self.facts.get('seed', '?')})"


def entry_of(facts: dict[str, Any], before: Image | None, after: Image) -> Entry:
    """An entry with its pictures as PNG."""
    return Entry(facts, None if before is None else png_of(before), png_of(after))


def to_browser(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """As JSON: the newest first, as many as fit."""
    kept, size = [], 0
    for entry in entries[:MOST]:
        size += len(entry.after) + len(entry.before or b"")
        if size > MOST_BYTES:
            break
        kept.append({**entry.facts, "before": _text(entry.before), "after": _text(entry.after)})
    return kept


def from_browser(given: Any) -> list[Entry]:
    """The entries in what a browser kept. It may hold anything: what is no entry is left out."""
    found = []
    for one in given if isinstance(given, list) else []:
        if not isinstance(one, dict):
            continue
        before, after = _bytes(one.get("before")), _bytes(one.get("after"))
        facts = {name: one[name] for name in FACTS if isinstance(one.get(name), str | int | float)}
        if after is not None and isinstance(facts.get("instruction"), str):
            found.append(Entry(facts, before, after))
    return found[:MOST]


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _bytes(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return None
