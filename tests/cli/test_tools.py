"""The makefile and the benchmarks' one format: what fails says why, and leaves nothing half made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(project: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`make setup` with a PYTHON that is this shell script."""
    python = project / "a python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    command = ["make", "setup", f"PYTHON={python}"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_environment_that_is_half_made_is_removed(project: Path) -> None:
    half = "mkdir -p .venv/bin && touch .venv/bin/python && chmod +x .venv/bin/python; exit 1"
    result = make(project, f'if [ "$1" = -c ]; then exit 0; fi; {half}')
    assert result.returncode != 0
    assert "venv failed; install its venv module" in result.stdout
    assert not (project / ".venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_python_that_does_not_fit_is_refused(project: Path) -> None:
    result = make(project, "exit 1")
    assert result.returncode != 0
    assert "is no Python 3.11 or 3.12" in result.stdout
    assert not (project / ".venv").exists()


def test_the_version_of_torch_is_written_once() -> None:
    assert "torch==" not in (ROOT / "Makefile").read_text()
    assert "\ntorch==" in (ROOT / "constraints.txt").read_text()


BENCHMARK = """
import sys
sys.path.insert(0, {folder!r})
from figures import Figure, report

def measure(seed):
    '''One figure.'''
    return [Figure("size", float(seed), "things", 3)]

report(measure, {{"seed": {{"type": int, "default": 0}}}})
"""


@pytest.mark.parametrize(("seed", "code"), [(3, 0), (4, 1)])
def test_a_benchmark_gets_its_options_and_fails_where_a_figure_does_not_hold(seed: int, code: int) -> None:
    script = BENCHMARK.format(folder=str(ROOT / "benchmarks"))
    command = [sys.executable, "-c", script, "--json", "--seed", str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    data = json.loads(result.stdout)
    assert data["seed"] == data["figures"][0]["value"] == seed
    assert data["figures"][0]["holds"] == (code == 0)
    assert ("ok" if code == 0 else "FAIL") in result.stderr


def test_the_benchmark_of_the_command_line_takes_a_model() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "cli.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--model" in result.stdout
    assert "--seed" in result.stdout
