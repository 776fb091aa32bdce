"""`tagmoe train`: run a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.models import quiet_libraries
from tagmoe.cli.options import AsJson
from tagmoe.cli.output import log, print_result
from tagmoe.extras import require


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file of settings, e.g. recipes/tagworld/release.yaml.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the run, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe: dense base, upcycling, unified training; print the folder of the result.

    Example: tagmoe train recipes/tagworld/release.yaml --set seed=1 --output-dir runs/one
    """
    from tagmoe.config import load_config

    overrides = list(changes or [])
    if output_dir is not None:
        # Quoted, because the value is read as YAML and a path may look like something else there.
        overrides.append(f"output_dir={json.dumps(str(output_dir))}")
    config = load_config(recipe, overrides)
    if config.tensorboard:
        require("train", purpose="The setting 'tensorboard: true'")
    quiet_libraries()
    from tagmoe.evaluate.tagworld import validator
    from tagmoe.train.recipe import train as run_recipe

    try:
        folder = run_recipe(config, validator=validator(config.validation_cases), resume=resume)
    except KeyboardInterrupt as stopped:
        if str(stopped):
            log(f"{stopped} Add --resume to the same command to go on.")
        raise
    print_result(
        {"model": str(folder), "output_dir": config.output_dir, "seed": config.seed}, str(folder), as_json=as_json
    )
