"""docs/paper_map.md tells the truth: every symbol exists and its docstring or its file's names the item."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    (row[1].strip(), symbol)
    for row in (line.split("|") for line in (ROOT / "docs" / "paper_map.md").read_text().splitlines())
    if len(row) == 5
    for symbol in re.findall(r"`([\w/]+\.py::\w+)`", row[3])
]


def test_the_map_is_not_empty() -> None:
    assert len(ROWS) >= 15


def faults(item: str, symbol: str) -> list[str]:
    """What is wrong with a row: its symbol is not there, or nothing at it names the item."""
    path, name = symbol.split("::")
    module = import_module("tagmoe." + path.removesuffix(".py").replace("/", "."))
    if not hasattr(module, name):
        return [f"{symbol} is not there"]
    text = f"{getattr(module, name).__doc__ or ''} {module.__doc__ or ''}"
    numbers = re.findall(r"\d(?:\.\d)*", item)
    named = any(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", text) for number in numbers)
    return [] if named else [f"{symbol} does not name {item}"]


def test_symbols_exist_and_name_their_item() -> None:
    assert [fault for item, symbol in ROWS for fault in faults(item, symbol)] == []


def test_each_equation_has_one_home() -> None:
    homes = {item.split(",")[0] for item, _ in ROWS if item.startswith("Eq.")}
    assert homes == {f"Eq. ({number})" for number in range(1, 6)}
