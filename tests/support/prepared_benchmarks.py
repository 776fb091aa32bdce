"""Prepared benchmarks and runs for tests: TagWorld cases in a folder, and a run of an anchor."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tagmoe.evaluate.answers.anchors import AnchorAnswers
from tagmoe.evaluate.benchmarks.benchmark import prepare
from tagmoe.evaluate.benchmarks.cases import Prepared, read_prepared
from tagmoe.evaluate.benchmarks.tagworld import TagWorld
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.run_folder import Run, RunFacts, read_run


@cache
def _prepared(per_task: int, seed: int) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory()
    prepare(TagWorld(per_task, seed), Path(folder.name))
    return folder


def tagworld_bench(folder: Path, per_task: int = 1, seed: int = 0) -> Prepared:
    """A new folder with cases of every task of TagWorld; they are drawn once a session."""
    shutil.copytree(_prepared(per_task, seed).name, folder)
    return read_prepared(folder)


def anchor_run(prepared: Prepared, name: str, folder: Path) -> Run:
    """A finished run of an anchor."""
    answers = AnchorAnswers(name, prepared)
    generate(prepared, answers, RunFacts.of(prepared, answers), folder)
    return read_run(folder, prepared)
