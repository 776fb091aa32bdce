"""What source files import, parsed once for all tests that read it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node. Not its expressions: they are ten times as many, and no import stands in one."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for below in getattr(node, part, ()):
            yield below
            yield from statements(below)


@cache
def imports_in(text: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """The import statements anywhere in a source text, also those inside functions."""
    return tuple(node for node in statements(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))
