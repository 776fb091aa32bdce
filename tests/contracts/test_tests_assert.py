"""Every test can fail: it asserts, expects an error, or calls a helper that does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Of libraries: these raise where what they check is not so. `refused` is a method of the command line's outcome.
ASSERTING = frozenset({"raises", "warns", "fail", "assert_close", "assert_allclose", "opcheck", "refused"})
# Helpers without an assertion that raise all the same, each shown to by a test beside it.
RAISING = {"docs/test_printed_commands.py": {"parse"}}


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def called(function: Function) -> set[str]:
    """The last names of all that a function calls."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute)} | {
        call.id for call in calls if isinstance(call, ast.Name)
    }


def asserts(function: Function, helpers: frozenset[str]) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(function)) or not helpers.isdisjoint(called(function))


def asserting_helpers(tree: ast.AST, known: frozenset[str]) -> frozenset[str]:
    """`known` and the names of the file's functions that assert, by themselves or through one another."""
    while True:
        found = known | {f.name for f in functions(tree) if not f.name.startswith("test") and asserts(f, known)}
        if found == known:
            return found
        known = found


def imported(tree: ast.AST) -> set[str]:
    """Names that a file imports from tests/support."""
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("support")
        for alias in node.names
    }


def idle_tests(text: str, shared: frozenset[str] = frozenset()) -> list[str]:
    """Tests of a file that assert nothing. shared: helpers of tests/support that assert."""
    tree = ast.parse(text)
    helpers = asserting_helpers(tree, ASSERTING | (shared & imported(tree)))
    return [f.name for f in functions(tree) if f.name.startswith("test") and not asserts(f, helpers)]


def test_every_test_asserts() -> None:
    support = [ast.parse(path.read_text(encoding="utf-8")) for path in (TESTS / "support").glob("*.py")]
    shared = frozenset(name for tree in support for name in asserting_helpers(tree, ASSERTING))
    found = []
    count = 0
    for path in sorted(TESTS.rglob("test_*.py")):
        name, text = str(path.relative_to(TESTS)), path.read_text(encoding="utf-8")
        raising = RAISING.get(name, set())
        idle = idle_tests(text, shared)
        found += [f"{name}::{f.name}" for f in functions(ast.parse(text)) if f.name in idle and not raising & called(f)]
        count += text.count("\ndef test_")
    assert count > 1000
    assert found == []


def test_idle_tests_are_found() -> None:
    text = """
def check(x):
    assert x

def twice(x):
    check(x); check(x)

def look(x):
    print(x)

def test_a(): assert 1
def test_b(): twice(1)
def test_c(): look(1)
async def test_d(): outcome.refused(2)
def test_e(): compare(1)
"""
    assert idle_tests(text) == ["test_c", "test_e"]
    text = f"from support.x import compare\n{text}"
    assert idle_tests(text, frozenset({"compare", "look"})) == ["test_c"]
