"""Every test can fail: it asserts, expects an error, or calls a helper that does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from support.source_trees import statements

TESTS = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Of libraries: these raise where what they check is not so. `refused` is a method of the command line's outcome.
ASSERTING = frozenset({"assert", "raises", "warns", "fail", "assert_close", "assert_allclose", "opcheck", "refused"})
# What raises without an assertion of its own: `parse` does so for a wrong command, as a test beside it shows, and the
# block of CONTRIBUTING.md that is executed asserts. A test of diffusers is called by its name.
RAISING = {
    "docs/test_printed_commands.py": frozenset({"parse"}),
    "docs/test_contributing.py": frozenset({"exec"}),
    "peers/test_model_protocol.py": frozenset({"test_gradient_checkpointing_is_applied"}),
}


def functions(tree: ast.Module) -> list[Function]:
    """Functions of a file, and methods of its classes."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [node for body in (tree.body, *(c.body for c in classes)) for node in body if isinstance(node, Function)]


def called(function: Function) -> Iterator[str]:
    """The last names of all that a function calls; "assert" where it asserts itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        elif isinstance(node, ast.Assert):
            yield "assert"


def asserts(function: Function, helpers: frozenset[str]) -> bool:
    return any(name in helpers for name in called(function))


def asserting_helpers(tree: ast.Module, known: frozenset[str]) -> frozenset[str]:
    """`known` and the names of the file's functions that assert, by themselves or through one another."""
    while True:
        found = known | {f.name for f in functions(tree) if not f.name.startswith("test") and asserts(f, known)}
        if found == known:
            return found
        known = found


def imported(tree: ast.Module) -> set[str]:
    """Names that a file imports from tests/support."""
    return {
        alias.name
        for node in statements(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("support")
        for alias in node.names
    }


def idle_tests(text: str, also: frozenset[str] = frozenset(), shared: frozenset[str] = frozenset()) -> list[str]:
    """Tests of a file that assert nothing. also: names that assert there; shared: helpers of tests/support that do."""
    tree = ast.parse(text)
    from_support = shared & imported(tree) if "support" in text else frozenset[str]()
    helpers = asserting_helpers(tree, ASSERTING | also | from_support)
    return [f.name for f in functions(tree) if f.name.startswith("test") and not asserts(f, helpers)]


def test_every_test_asserts() -> None:
    support = [ast.parse(path.read_text(encoding="utf-8")) for path in (TESTS / "support").glob("*.py")]
    shared = frozenset(name for tree in support for name in asserting_helpers(tree, ASSERTING))
    found = []
    count = 0
    for path in sorted(TESTS.rglob("test_*.py")):
        name, text = str(path.relative_to(TESTS)), path.read_text(encoding="utf-8")
        found += [f"{name}::{test}" for test in idle_tests(text, RAISING.get(name, frozenset()), shared)]
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
    assert idle_tests(text, shared=frozenset({"compare", "look"})) == ["test_c"]
