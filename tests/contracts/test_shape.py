"""The shape of the source: short files, said what they are for, nothing unfinished, nothing of one machine."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("src", "tests", "benchmarks", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
MAX_LINES = 450
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("src", "tests", "benchmarks", "docs", "recipes", "tools")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".j2", ".sh", ".toml", ".ipynb"}
}
# In pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(wor" + r"k|roo" + r"t|op" + r"t|tmp/pl" + r"an)/\w")


def test_files_are_short_and_in_ascii() -> None:
    assert len(CODE) > 400
    assert {name: n for name, text in CODE.items() if (n := len(text.splitlines())) > MAX_LINES} == {}
    assert [name for name, text in CODE.items() if not text.isascii()] == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert len(TEXTS) > len(CODE)
    assert [name for name, text in TEXTS.items() if MACHINE_PATH.search(text)] == []


def test_source_files_are_finished_and_say_what_they_are() -> None:
    source = {name: text for name, text in CODE.items() if name.startswith("src/")}
    assert [name for name, text in source.items() if UNFINISHED.search(text)] == []
    # What a file is for is its first line.
    assert [name for name, text in source.items() if not re.match(r'"""\S', text)] == []
