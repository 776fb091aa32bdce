"""`tagmoe ablation`: run the arms of the paper's ablation on TagWorld, and report what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_folder, give, new_folder, say
from tagmoe.errors import UsageError

ablation = typer.Typer(no_args_is_help=True, help="Train arms of the ablation over seeds, and compare them.")


@ablation.command()
def run(
    recipes: Annotated[Path, typer.Argument(help="Folder of arms: common.yaml and one YAML an arm.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and results; a later call goes on.")],
    arms: Annotated[str | None, typer.Option(help="Arms, separated by commas; by default all.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, each with the recipe's threads.")] = 1,
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases of each of the 25 tasks.")] = 60,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change what all arms share.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and measure arms x seeds. Interrupted or killed, the same command goes on.

    Example: tagmoe ablation run recipes/tagworld/ablation --out runs/ablation --arms dense,moe,align --jobs 2
    """
    from tagmoe.ablation.arms import load_arms

    chosen = load_arms(recipes, arms.split(",") if arms else None, changes or ())
    numbers = _seeds(seeds)
    from tagmoe.cli.models import hush

    hush()
    from tagmoe.ablation.measure import Plan
    from tagmoe.ablation.run import failed, run_arms

    outcome = run_arms(chosen, numbers, out, Plan(per_task=cases), jobs=jobs)
    error = failed(outcome)
    if error is not None:
        raise error
    results = [str(job.folder / "result.json") for job in outcome.done]
    give({"out": str(out), "results": results}, str(out), as_json=as_json)


@ablation.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results, as run writes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, figures, JSON and CSV.")],
    baseline: Annotated[str, typer.Option(help="The arm that differences are taken to.")] = "moe",
    arms: Annotated[str | None, typer.Option(help="Arms, separated by commas; by default all with results.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas; by default all.")] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="Folder of arms: those without a result are shown as missing.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare arms over seeds on the same cases: means, paired differences with intervals, the paper's claims.

    Example: tagmoe ablation report runs/ablation --out ablation-report --recipes recipes/tagworld/ablation
    """
    from tagmoe.ablation.collection import read_collection
    from tagmoe.ablation.report import FILES, write_report
    from tagmoe.ablation.table import SUCCESS, phrase, summarise

    check_output_folder(out, force=force, ours=FILES)
    known = None
    if recipes is not None:
        from tagmoe.ablation.arms import arm_names

        known = arm_names(recipes)
    wanted = None if arms is None else arms.split(",")
    numbers = None if seeds is None else _seeds(seeds)
    summary = summarise(read_collection(folder, known=known, arms=wanted, seeds=numbers), baseline)
    with new_folder(out) as partial:
        data = write_report(summary, partial)
    for row in summary.rows:
        if row.arm != baseline:
            say(f"  {row.arm:<20}{phrase(row.differences['success'], SUCCESS)}")
    page = out / "report.html"
    give({"report": str(page), **data}, str(page), as_json=as_json)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds is {text!r}; give different whole numbers from 0, separated by commas: 0,1,2.")
    return seeds
