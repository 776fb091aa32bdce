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
    blocks = re.findall(r"^```(sh|python|yaml)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert {kind for kind, _ in blocks} == {"sh", "python", "yaml"}
    for kind, text in blocks:
        if kind == "yaml":
            # Its first line is its name.
            (tmp_path / text.split("\n", 1)[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, "evaluation.md", "exec"), {"__name__": "page"})
        else:
            with without_layout():
                for line in text.splitlines():
                    assert run(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "mine-copy" / "scores" / "copying.jsonl").is_file()
