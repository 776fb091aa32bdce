"""Every file of this project that the README, the documents and the docstrings name is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"))
}
# a path of this repository, not the tail of a longer one or of an address
NAMED = re.compile(r"(?<![\w/.-])(?:tests|src|docs|recipes|benchmarks|tools)/[\w./-]*\w\.(?:py|md|ya?ml|png|json)\b")


def test_the_pattern_finds_paths() -> None:
    text = "see docs/log.md, `tests/a/test_b.py::test_c` and (src/x.py), not https://a.org/docs/x.md or my/src/y.py"
    assert NAMED.findall(text) == ["docs/log.md", "tests/a/test_b.py", "src/x.py"]


def test_named_files_exist() -> None:
    named = {(name, path) for name, text in TEXTS.items() for path in NAMED.findall(text)}
    assert len(named) >= 10
    assert sorted((name, path) for name, path in named if not (ROOT / path).is_file()) == []
