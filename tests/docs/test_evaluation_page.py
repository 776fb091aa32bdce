"""The page on scoring an editor: its commands and its Python run as printed, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.quick_figures import without_layout

from tagmoe.cli import run

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    with without_layout():
        for line in commands.splitlines():
            assert run(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "report" / "report.html").is_file()
    exec(compile(code, "evaluation.md", "exec"), {"__name__": "page"})
