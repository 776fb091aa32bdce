"""The tool for one GPU, tried on a CPU: it times itself, trains and edits what fits, and judges later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_experiment import write_arms

TOOL = Path(__file__).parents[3] / "tools" / "conflict_on_gpu.py"


@pytest.mark.slow
def test_what_fits_is_trained_and_judged_later(tmp_path: Path) -> None:
    recipes = write_arms(tmp_path)
    command = [sys.executable, str(TOOL), str(tmp_path / "out"), "--recipes", str(recipes)]
    trained = subprocess.run(
        [*command, "--device", "cpu", "--processes", "2", "--minutes", "8", "--measure", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    rows = [json.loads(line) for line in trained.stdout.splitlines() if line.startswith("{")]
    assert rows[0]["seconds a step"] > 0
    assert rows[0]["runs"] == 8
    assert len(rows) == 9
    judged = subprocess.run([*command, "--judge"], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stderr
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "results").glob("*.json"))]
    assert len(results) == 8
    assert {len(result["scores"]["success"]) for result in results} == {2}
    assert {result["device"] for result in results} == {"cpu"}
