"""What stands once: one module opens pictures."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "tagmoe"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def having(pattern: str) -> list[str]:
    """The source files that hold a match of this pattern."""
    return [name for name, text in SOURCES.items() if re.search(pattern, text)]


def test_only_pictures_opens_pictures() -> None:
    assert having(r"\bImage\.open\(") == ["pictures.py"]
