"""docs/paper_map.md tells the truth: every symbol exists and its docstring or its file's names the item."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    (row[1].strip(), symbol)
    for row in (line.split("|") for line in (ROOT / "docs" / "paper_map.md").read_text().splitlines())
    if len(row) == 5
    for symbol in re.findall(r"`([\w/]+\.py::\w+)`", row[3])
]


def test_the_map_is_not_empty() -> None:
    assert len(ROWS) >= 15


@pytest.mark.parametrize(("item", "symbol"), ROWS)
def test_symbol_exists_and_names_its_item(item: str, symbol: str) -> None:
    path, name = symbol.split("::")
    module = import_module("tagmoe." + path.removesuffix(".py").replace("/", "."))
    text = f"{getattr(module, name).__doc__ or ''} {module.__doc__ or ''}"
    numbers = re.findall(r"\d(?:\.\d)*", item)
    assert any(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", text) for number in numbers), (item, text)


def test_each_equation_has_one_home() -> None:
    homes = {item.split(",")[0] for item, _ in ROWS if item.startswith("Eq.")}
    assert homes == {f"Eq. ({number})" for number in range(1, 6)}
