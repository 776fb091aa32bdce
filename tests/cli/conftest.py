"""A random but complete model folder, and the command line run in this process."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.kept_models import models_kept
from support.quick_figures import without_layout, without_rendering


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *parts: str) -> None:
        """Assert that it failed with this code and one sentence that holds all `parts`, and printed no result."""
        assert self.code == code, self.err
        assert self.out == ""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for part in parts:
            assert part in lines[0]


Call = Callable[..., Outcome]


@pytest.fixture
def tagmoe(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process."""
    from tagmoe.cli import run

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def quick_figures() -> Iterator[None]:
    with without_layout():
        yield


@pytest.fixture
def empty_figures() -> Iterator[None]:
    with without_rendering():
        yield


@pytest.fixture
def drift_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the step-0 drift in this process: another one takes ten seconds to import diffusers."""
    from tagmoe.cli import drift

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            drift.probe(*command[3:])
        return subprocess.CompletedProcess(command, 0, out.getvalue(), err.getvalue())

    monkeypatch.setattr(drift, "subprocess", SimpleNamespace(run=run))


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    with models_kept():
        yield


@pytest.fixture(scope="session")
def model(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights that knows TagWorld's words. Read it, do not change it."""
    from tagmoe.world import words

    folder = tmp_path_factory.mktemp("models") / "random"
    tiny_pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    data = json.loads(index.read_text())
    # The tiny tokenizer knows few words, so that an instruction takes more tokens than a trained one would.
    data |= {"known_words": sorted(words()), "max_prompt_tokens": 512}
    index.write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TagWorld scene as a PNG file."""
    from tagmoe.world import sample

    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(np.asarray(sample(0, 0, task="recolour").sources[0])).save(path)
    return path
