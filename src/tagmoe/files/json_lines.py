"""Lines of JSON. A line ends at a line feed, and nowhere else: texts may hold other characters that separate lines."""

from __future__ import annotations

import json
from typing import Any

# What `str.splitlines` and other readers take for the end of a line, and JSON does not escape.
_SEPARATORS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def json_line(value: Any) -> str:
    """A JSON value as one line, with its line feed."""
    return as_line(json.dumps(value, ensure_ascii=False))


def as_line(text: str) -> str:
    """A JSON text without line feeds as one line for every reader, with its line feed."""
    return text.translate(_SEPARATORS) + "\n"


def lines_of(text: str) -> list[str]:
    """The lines of a file of JSON lines; a last line without its line feed counts, too."""
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines
