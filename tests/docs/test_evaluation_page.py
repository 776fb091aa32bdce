"""The page on scoring an editor: its commands and its Python run as printed, in their order."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from support.images_server import images_server
from support.quick_figures import without_rendering

from tagmoe.cli import run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
SERVER = "http://127.0.0.1:8000/v1"
RESULTS = "docs/results/evaluation"


@pytest.mark.usefixtures("models")
def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_editor", raising=False)
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"^```(sh|python|yaml)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    with without_rendering(), images_server(models=["my-editor"]) as server:
        for kind, text in blocks:
            if name := re.match(r"# (\w+\.(py|yaml))\n", text):
                # A file that the reader writes: its first line is its name.
                (tmp_path / name[1]).write_text(text, encoding="utf-8")
            elif kind == "python":
                exec(compile(text, "evaluation.md", "exec"), names)
            else:
                for line in text.splitlines():
                    # The address of the server that this test runs.
                    assert run(shlex.split(line.replace(SERVER, server.url))[1:]) == 0, line
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "mine-copy" / "scores" / "copying.jsonl").is_file()
    assert len(server.requests) == 3
