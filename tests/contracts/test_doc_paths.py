"""Every file of this project that the README, the documents and the docstrings name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
# a path of this repository, not the tail of a longer one or of an address
NAMED = re.compile(r"(?<![\w/.-])(?:tests|src|docs|recipes|benchmarks)/[\w./-]*\w\.(?:py|md|ya?ml|png|json)\b")


def missing(path: Path) -> list[str]:
    return [name for name in NAMED.findall(path.read_text(encoding="utf-8")) if not (ROOT / name).is_file()]


def test_the_pattern_finds_paths() -> None:
    text = "see docs/log.md, `tests/a/test_b.py::test_c` and (src/x.py), not https://a.org/docs/x.md or my/src/y.py"
    assert NAMED.findall(text) == ["docs/log.md", "tests/a/test_b.py", "src/x.py"]
    assert sum(len(NAMED.findall(path.read_text(encoding="utf-8"))) for path in TEXTS) >= 10


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(path: Path) -> None:
    assert missing(path) == []
