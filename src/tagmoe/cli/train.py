"""`tagmoe train`: run a recipe."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.models import quiet_libraries
from tagmoe.cli.options import AsJson, MemoryChoice
from tagmoe.cli.output import log, print_result
from tagmoe.errors import UsageError

MOST_REFERENCES = 64
MOST_RANKS = 2**16
PATIENCE = 15.0
"""Seconds that a process of torchrun waits for rank 0 to say what is wrong. torchrun looks ten times a second."""


def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML file of settings, or the name of a packaged recipe: tagworld/quick.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the run, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the output folder.")] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print what the run needs (memory, FLOPs) and whether it fits; train nothing."),
    ] = False,
    memory: MemoryChoice = "auto",
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the pictures to plan for; by default the recipe's largest.")
    ] = None,
    references: Annotated[int, typer.Option(min=0, max=MOST_REFERENCES, help="References to plan for.")] = 1,
    ranks: Annotated[
        int, typer.Option(min=1, max=MOST_RANKS, help="Processes (GPUs) to plan for, as torchrun would start.")
    ] = 1,
    report_to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]", help="Trackers that get the metrics too: tensorboard, wandb, mlflow, trackio, ..."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Write the page of the run in this folder anew; train nothing.")
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the packaged recipes without training.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe: dense base, upcycling, unified training; print the folder of the result.

    Example: tagmoe train tagworld/quick --set seed=1 --output-dir runs/one
    Example: tagmoe train tagworld/quick --plan
    Example: torchrun --nproc-per-node 8 -m tagmoe train recipe.yaml
    """
    if page is not None:
        if recipe is not None:
            raise UsageError("--page is for a run that is there already; leave the recipe out.")
        _write_page(page, as_json)
        return
    changes = [*(changes or []), *([] if report_to is None else [f"watch.report_to={report_to.split(',')}"])]
    with _rank_0_speaks_first():
        _train(recipe, changes, output_dir, resume, plan, memory, size, references, ranks, list_recipes, as_json)


def _write_page(run: Path, as_json: bool) -> None:
    quiet_libraries()
    from tagmoe.train.run_page import RunPage

    path = RunPage.read(run).write()
    print_result({"page": str(path)}, str(path), as_json=as_json)


def _rank() -> int:
    """The number of this process among those that torchrun has started."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def _rank_0_speaks_first() -> Iterator[None]:
    """Let only rank 0 say what is wrong for all of them. Another rank waits: torchrun ends it when rank 0 has failed.

    If it still runs after `PATIENCE` seconds, the fault is its own, so it says it.
    """
    try:
        yield
    except typer.Exit:
        raise
    except Exception:
        if _rank():
            # Training may have left a handler that saves after the next step; sleep would go on after it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(PATIENCE)
            log(f"Process {_rank()} of {os.environ.get('WORLD_SIZE')} failed:")
        raise


def _train(
    recipe: Path | None,
    changes: list[str] | None,
    output_dir: Path | None,
    resume: bool,
    plan: bool,
    memory: str,
    size: str | None,
    references: int,
    ranks: int,
    list_recipes: bool,
    as_json: bool,
) -> None:
    from tagmoe.config import find_recipe, load_config

    if list_recipes:
        _print_recipes(as_json)
        return
    if recipe is None:
        raise UsageError('No recipe is given; name one of those that "tagmoe train --list" prints, or a YAML file.')
    path = find_recipe(recipe)
    overrides = list(changes or [])
    if output_dir is not None:
        # Quoted, because the value is read as YAML, where a path may be read as another type.
        overrides.append(f"output_dir={json.dumps(str(output_dir))}")
    config = load_config(path, overrides)
    if plan:
        from tagmoe.cli.train_plan import print_plan

        quiet_libraries()
        print_plan(config, memory=memory, size=size, references=references, ranks=ranks, as_json=as_json)
        return
    if (memory, size, references, ranks) != ("auto", None, 1, 1):
        raise UsageError("--memory, --size, --references and --ranks are for --plan alone; add it, or leave them out.")
    quiet_libraries()
    from tagmoe.train.trackers import check_trackers

    check_trackers(config.watch.report_to, tensorboard=config.tensorboard)
    from tagmoe.evaluate.tagworld_pipeline import validator
    from tagmoe.train.recipe import train as run_recipe

    try:
        folder = run_recipe(config, validator=validator(config.validation_cases), resume=resume)
    except KeyboardInterrupt as stopped:
        if str(stopped) and _rank() == 0:
            log(f"{stopped} Add --resume to the same command to go on.")
        # The argument parser turns every other exception of this kind into the code of Ctrl-C.
        raise typer.Exit(128 + getattr(stopped, "signum", signal.SIGINT)) from stopped
    if _rank() == 0:
        print_result(
            {"model": str(folder), "output_dir": config.output_dir, "seed": config.seed}, str(folder), as_json=as_json
        )


def _print_recipes(as_json: bool) -> None:
    """Print name, minutes and a line about each packaged recipe, from the comment at its top."""
    from tagmoe.config import packaged_recipes

    recipes = []
    for name, path in packaged_recipes().items():
        about, minutes, *_ = [line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines()]
        known = minutes.split()[1]
        # Of a recipe that nobody has run at full size the minutes are not known.
        recipes.append({"name": name, "minutes": int(known) if known.isdigit() else None, "about": about})
    lines = [f"{row['name']:<26}{row['minutes'] or '?':>4} min  {row['about']}" for row in recipes]
    print_result({"recipes": recipes}, "\n".join(lines), as_json=as_json)
