"""What stands once: one module opens pictures, one makes intervals."""

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


def test_only_intervals_makes_intervals() -> None:
    """The others take a percentile of labels dealt out anew, which is chance, or of the pixels of a picture."""
    assert having(r"\b(quantile|percentile)\(") == [
        "annotation/rules/evidence.py",
        "intervals.py",
        "routing/predictability.py",
        "routing/specialization.py",
    ]
    assert having(r"binomtest|stdtrit|scipy\.(stats|special)|from scipy import .*(stats|special)") == ["intervals.py"]
    assert having(r"class \w*(Interval|Bootstrap)\b") == ["intervals.py"]
