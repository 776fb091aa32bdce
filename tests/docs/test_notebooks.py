"""The notebooks run from their first cell to their last, in an empty folder, and are stored without outputs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KERNEL = find_spec("nbclient") is not None and find_spec("ipykernel") is not None


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["edit_and_explain", "train_an_arm"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path) -> None:
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert path.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel where nbclient is installed (docs/requirements.txt), else cell by cell in this process."""
    monkeypatch.chdir(tmp_path)
    if KERNEL:
        import nbformat
        from nbclient import NotebookClient

        NotebookClient(nbformat.read(path, as_version=4), timeout=1200).execute(cwd=str(tmp_path))
    else:
        names: dict[str, Any] = {"__name__": "notebook"}
        for number, cell in enumerate(cells(path)):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    made = {item.name for item in tmp_path.iterdir()}
    assert {"edit_and_explain": {"blue.html", "blue.png"}, "train_an_arm": {"runs"}}[path.stem] <= made
