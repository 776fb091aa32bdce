"""Runs diffusers' own tests twice, on its class and on ours, and compares: what stock passes, ours must pass.

A class of tests says which `side` it is on; the name without `Stock` or `Ours` pairs them. Stock's come first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from peers.checkout import VARIABLE, checkout, version_note
from peers.differences import DIFFERENCES

FOLDER = checkout()
collect_ignore_glob = [] if FOLDER else ["test_*.py"]
OUTCOMES: dict[str, dict[str, str]] = {"stock": {}, "ours": {}}


def side_of(item: pytest.Item) -> str | None:
    return getattr(getattr(item, "cls", None), "side", None)


def key_of(item: pytest.Item) -> str:
    """The name of a test that both sides share."""
    name = item.cls.__name__  # type: ignore[attr-defined]
    return f"{name.removeprefix('TestStock').removeprefix('TestOurs')}::{item.name}"


def pytest_configure(config: pytest.Config) -> None:
    # Markers are strict here. diffusers declares some of its own, so all that its helpers use are declared.
    text = (FOLDER / "tests" / "testing_utils.py").read_text(encoding="utf-8") if FOLDER else ""
    for name in sorted(set(re.findall(r"pytest\.mark\.(\w+)", text)) - {"parametrize", "skipif", "skip", "xfail"}):
        config.addinivalue_line("markers", f"{name}: of diffusers' tests")


def pytest_report_header() -> str:
    return version_note(FOLDER) if FOLDER else f"{VARIABLE} is not set, so no tests of diffusers are collected."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if side_of(item) == "ours"]
    for item in items:
        if side_of(item):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
    for item in ours:
        if reason := DIFFERENCES.get(key_of(item)):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    side = side_of(item)
    if side is None or (report.when != "call" and report.passed):
        return report
    key = key_of(item)
    is_expected_failure = report.skipped and hasattr(report, "wasxfail")
    OUTCOMES[side][key] = outcome = "differs" if is_expected_failure else report.outcome
    stock = OUTCOMES["stock"].get(key)
    if outcome == "failed" and stock == "failed":
        report.outcome, report.wasxfail = "skipped", "stock fails" if side == "stock" else "stock fails too"
    if side == "ours" and outcome == "skipped" and stock == "passed":
        report.outcome, report.longrepr = "failed", f"It was skipped, and stock passes it: {report.longrepr}"
        OUTCOMES[side][key] = "failed"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FOLDER is None:
        return
    for side, outcomes in OUTCOMES.items():
        counts = Counter(outcomes.values())
        shown = ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped", "differs"))
        terminalreporter.write_line(f"{side}: {shown}")
