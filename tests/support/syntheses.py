"""Plans that run on a few samples of TagWorld with editors and servers of the tests."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from support.bad_editors import Load
from tagmoe.cli.vlm_options import open_vlm
from tagmoe.data.store.engine import Engine
from tagmoe.factory.folder import Folder
from tagmoe.factory.plan import Edit, Plan, ServedVLM, plan_of
from tagmoe.factory.survival import Survival, survival
from tagmoe.factory.synthesize import EditorMade, Means, Run

TASKS = "recolour,light,add"


def a_plan(*steps: dict[str, Any], count: int = 12, unit: int = 4, tasks: str = TASKS, **more: Any) -> Plan:
    """A plan on so many samples of TagWorld."""
    roots = {"kind": "tagworld", "options": {"count": count, "seed": 5, "tasks": tasks}, "unit": unit}
    return plan_of({"name": "tried", "dataset": "tagworld", "roots": roots, "steps": list(steps), **more})


def synthesize(folder: Path, plan: Plan, *, engine: Engine = "local", workers: int = 1) -> Survival:
    """Run a plan in a folder; `editor` of a step is a name in `support.bad_editors`."""
    made = Folder(folder)
    Run(plan, made, _means(engine, workers)).run()
    return survival(made, plan)


def killed_at_random(
    start: Callable[[Path], subprocess.Popen[bytes]], folder: Path, kills: int, longest: float
) -> bool:
    """Start a run in the folder so many times, and kill it at most `longest` seconds after it has written something.

    Waiting for that lets the kills fall into the work and not into the imports. Returns whether the run had come to its
    end by the fifth kill: then the kills came too late to say anything.
    """
    chance, ended = random.Random(0), []
    for _ in range(kills):
        before = _written(folder)
        running = start(folder)
        deadline = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < deadline and _written(folder) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, longest))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        ended.append((folder / "survival.json").exists() or running.returncode == 0)
    return ended[4]


def _written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def _means(engine: Engine, workers: int) -> Means:
    def editor(step: Edit) -> EditorMade:
        return EditorMade(Load(step.editor), step.name or step.editor, None, {}, step.licence)

    def vlm(served: ServedVLM) -> Any:
        return partial(open_vlm, served.endpoints, served.model, concurrency=4, timeout=20.0, attempts=2)

    return Means(editor, vlm, lambda title: nullcontext(), lambda text: None, engine, workers)
