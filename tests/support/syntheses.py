"""Plans that run on a few samples of TagWorld with editors and servers of the tests."""

from __future__ import annotations

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


def _means(engine: Engine, workers: int) -> Means:
    def editor(step: Edit) -> EditorMade:
        return EditorMade(Load(step.editor), step.name or step.editor, None, {}, step.licence)

    def vlm(served: ServedVLM) -> Any:
        return partial(open_vlm, served.endpoints, served.model, concurrency=4, timeout=20.0, attempts=2)

    return Means(editor, vlm, lambda title: nullcontext(), lambda text: None, engine, workers)
