"""Colours stand once, in report/colours.py."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "tagmoe"
COLOUR = re.compile(r"#(?:[0-9a-fA-F]{8}|[0-9a-fA-F]{6}|[0-9a-fA-F]{3,4})\b")
# Placeholders of figures, each beside its CSS variable. (The colours of the world's things are names and levels.)
EXCEPTIONS = {"report/colours.py", "report/svg.py"}


def colours_in(text: str) -> list[str]:
    return COLOUR.findall(text)


def test_colours_are_written_in_the_palette_alone() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*")):
        name = str(path.relative_to(PACKAGE))
        if path.suffix in (".py", ".j2", ".css") and name not in EXCEPTIONS:
            found |= {name: colours} if (colours := colours_in(path.read_text(encoding="utf-8"))) else {}
    assert found == {}


def test_colours_are_found() -> None:
    assert colours_in("a { color: #fff; background: #1f5f99 } fill='#ABCD'") == ["#fff", "#1f5f99", "#ABCD"]
    assert colours_in('href="#tasks" {# comment #} # a word') == []
