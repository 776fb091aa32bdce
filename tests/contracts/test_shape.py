"""The shape of the source: short files, said what they are for, nothing unfinished, nothing of one machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = sorted((ROOT / "src").rglob("*.py"))
FILES = [*SOURCE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
MAX_LINES = 600
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
TEXTS = sorted(
    path
    for folder in ("src", "tests", "benchmarks", "docs", "recipes")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".j2", ".sh", ".toml"}
)
# In pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(wor" + r"k|roo" + r"t|op" + r"t|tmp/pl" + r"an)/\w")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_short_and_in_ascii(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.isascii()


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [name(path) for path in TEXTS if MACHINE_PATH.search(path.read_text())]
    assert TEXTS
    assert found == []


@pytest.mark.parametrize("path", SOURCE, ids=name)
def test_a_source_file_is_finished_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert UNFINISHED.search(text) is None
    assert ast.get_docstring(ast.parse(text)) or (path.name == "__init__.py" and not text.strip())


def test_test_files_have_distinct_names() -> None:
    """pytest imports test files of folders without __init__.py by their bare name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({item for item in names if names.count(item) > 1})
