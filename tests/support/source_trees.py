"""What source files import, parsed once for all tests that read it."""

from __future__ import annotations

import ast
from functools import cache


@cache
def imports_in(text: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """The import statements anywhere in a source text, also those inside functions."""
    return tuple(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))
