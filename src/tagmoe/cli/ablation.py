"""`tagmoe ablation`: run the arms of the paper's ablation on TagWorld, and report what they show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.models import quiet_libraries
from tagmoe.cli.options import MOST_CASES, MOST_PROCESSES, AsJson, Force
from tagmoe.cli.output import check_output_folder, log, print_result, write_folder
from tagmoe.cli.verbs import make_group
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.laboratory.ablation.arms import Arm
    from tagmoe.laboratory.ablation.job import Job
    from tagmoe.laboratory.registered.plan import Experiment

app = make_group("Train arms of the paper's ablation over seeds, and compare them (Table 4).")


Recipes = Annotated[
    Path, typer.Argument(help="Folder of arms (common.yaml and one YAML an arm), or tagworld/ablation.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and results; a later call resumes them.")]
Seeds = Annotated[str, typer.Option(help="Seeds, separated by commas.")]
Jobs = Annotated[
    int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes at once, each with the recipe's threads.")
]
Cases = Annotated[int, typer.Option(min=1, max=MOST_CASES, help="Held-out cases of each task.")]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="Plan of a registered experiment, such as plan.yaml beside the arms.")
]
Results = Annotated[
    Path | None, typer.Option(help="Folder of the finished runs of a registered experiment; by default OUT/results.")
]
Most = Annotated[int | None, typer.Option(min=1, max=MOST_CASES, help="With --plan: end after so many runs.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of all arms; may be repeated.")
]


@app.command()
def run(
    recipes: Recipes,
    out: Out,
    arms: Annotated[str | None, typer.Option(help="Arms, separated by commas; by default all.")] = None,
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 1,
    cases: Cases = 60,
    changes: Changes = None,
    plan: PlanOption = None,
    results: Results = None,
    most: Most = None,
    as_json: AsJson = False,
) -> None:
    """Train and measure arms x seeds. After an interrupt or a kill, the same command resumes.

    With --plan the arms, seeds and cases are those of a registered experiment. It runs in one process of the lowest
    priority; `tagmoe ablation pause` stops it, and the same command goes on.

    Example: tagmoe ablation run tagworld/ablation --out runs/ablation --arms dense,moe,align --jobs 2
    """
    if plan is not None:
        if (arms, seeds, jobs, cases) != (None, "0,1,2", 1, 60):
            raise UsageError("The plan decides on arms, seeds, jobs and cases; leave these options out with --plan.")
        _run_plan(recipes, plan, out, results, changes, most, as_json=as_json)
        return
    if results is not None or most is not None:
        raise UsageError("--results and --most are for registered experiments; give --plan too.")
    chosen, numbers = _arms_and_seeds(recipes, arms, seeds, changes)
    from tagmoe.laboratory.ablation.job import arm_job
    from tagmoe.laboratory.ablation.measure import Plan

    how = Plan(per_task=cases).record()
    work = [arm_job(out, seed, arm, how) for seed in numbers for arm in chosen]
    done = _run(out, chosen, numbers, work, jobs)
    print_result(
        {"out": str(out), "results": [str(job.folder / "result.json") for job in done]}, str(out), as_json=as_json
    )


@app.command()
def status(
    recipes: Recipes,
    out: Out,
    plan: PlanOption = None,
    results: Results = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a registered experiment is: runs done, running and left, and hours to go.

    Example: tagmoe ablation status tagworld/conflict --out runs/conflict
    """
    from dataclasses import asdict

    from tagmoe.laboratory.registered.status import status_of

    experiment = _experiment(recipes, plan, changes)
    found = status_of(experiment, out, out / "results" if results is None else results)
    print_result(asdict(found), found.sentence(), as_json=as_json)


@app.command()
def pause(out: Out, as_json: AsJson = False) -> None:
    """Stop the process that runs a registered experiment in a folder, once its step is saved.

    Example: tagmoe ablation pause --out runs/conflict
    """
    from tagmoe.laboratory.registered.runner import pause as stop

    stopped = stop(out)
    print_result({"stopped": stopped}, "paused" if stopped else "nothing runs there", as_json=as_json)


@app.command()
def interference(
    recipes: Recipes,
    out: Out,
    arms: Annotated[str, typer.Option(help="Arms, separated by commas.")] = "dense,moe,align",
    seeds: Seeds = "0",
    jobs: Jobs = 1,
    cases: Cases = 60,
    equal_steps: Annotated[
        bool, typer.Option("--equal-steps", help="Train a family alone for as many steps as all tasks together.")
    ] = False,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether tasks interfere: families alone and together, and cosines between tasks' gradients.

    Writes interference.json into the folder. After an interrupt or a kill, the same command resumes.
    Example: tagmoe ablation interference tagworld/ablation --out runs/ablation --arms dense,moe --jobs 2
    """
    chosen, numbers = _arms_and_seeds(recipes, arms, seeds, changes)
    from tagmoe.laboratory.ablation.interference import family_jobs, summarise
    from tagmoe.laboratory.ablation.measure import Plan

    plan = Plan(per_task=cases)
    work = [
        job for seed in numbers for arm in chosen for job in family_jobs(out, seed, arm, plan, equal_steps=equal_steps)
    ]
    _run(out, chosen, numbers, work, jobs)
    path = summarise(out, [arm.name for arm in chosen], numbers)
    print_result({"out": str(out), "interference": str(path)}, str(path), as_json=as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results, as run writes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, figures, JSON and CSV.")],
    baseline: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "moe",
    arms: Annotated[str | None, typer.Option(help="Arms, separated by commas; by default all with results.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas; by default all.")] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="Folder of arms: those without a result are shown as missing.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare arms over seeds on the same cases: means, paired differences with intervals, the paper's claims.

    Example: tagmoe ablation report runs/ablation --out ablation-report --recipes tagworld/ablation
    """
    from tagmoe.config import find_arms
    from tagmoe.laboratory.ablation.arms import arm_names
    from tagmoe.laboratory.ablation.collection import read_collection
    from tagmoe.laboratory.ablation.report import FILES, write_report
    from tagmoe.laboratory.ablation.table import SUCCESS, phrase, summarise

    check_output_folder(out, force=force, ours=FILES)
    known = None if recipes is None else arm_names(find_arms(recipes))
    numbers = None if seeds is None else _seeds(seeds)
    summary = summarise(read_collection(folder, known=known, arms=_names(arms), seeds=numbers), baseline)
    data = write_folder(out, partial(write_report, summary))
    for row in summary.rows:
        if row.arm != baseline:
            log(f"  {row.arm:<20}{phrase(row.differences['success'], SUCCESS)}")
    page = out / "report.html"
    print_result({"report": str(page), **data}, str(page), as_json=as_json)


def _experiment(recipes: Path, plan: Path | None, changes: list[str] | None) -> Experiment:
    from tagmoe.config import find_arms
    from tagmoe.laboratory.ablation.arms import PLAN
    from tagmoe.laboratory.registered.plan import read_experiment

    folder = find_arms(recipes)
    return read_experiment(folder, folder / PLAN if plan is None else plan, tuple(changes or ()))


def _run_plan(
    recipes: Path,
    plan: Path,
    out: Path,
    results: Path | None,
    changes: list[str] | None,
    most: int | None,
    *,
    as_json: bool,
) -> None:
    experiment = _experiment(recipes, plan, changes)
    quiet_libraries()
    from tagmoe.laboratory.registered.priority import take_the_lowest_priority
    from tagmoe.laboratory.registered.runner import run_experiment

    place = out / "results" if results is None else results
    take_the_lowest_priority()
    outcome = run_experiment(experiment, out, place, most=most)
    if outcome.stopped_by_gate:
        log("The gate stopped the experiment: no positive control has a lower flow loss in every seed.")
    print_result(
        {"results": str(place), "finished": list(outcome.finished), "left": outcome.left}, str(place), as_json=as_json
    )


def _arms_and_seeds(
    recipes: Path, arms: str | None, seeds: str, changes: list[str] | None
) -> tuple[list[Arm], list[int]]:
    """The chosen arms and seeds, checked before anything heavy is imported."""
    from tagmoe.config import find_arms
    from tagmoe.laboratory.ablation.arms import load_arms

    chosen = load_arms(find_arms(recipes), _names(arms), changes or ()), _seeds(seeds)
    quiet_libraries()
    return chosen


def _run(out: Path, arms: list[Arm], seeds: list[int], work: list[Job], jobs: int) -> list[Job]:
    from tagmoe.laboratory.ablation.job import base_job
    from tagmoe.laboratory.ablation.run import failed, run_jobs

    outcome = run_jobs([base_job(out, seed, arms[0]) for seed in seeds], work, jobs=jobs)
    error = failed(outcome)
    if error is not None:
        raise error
    return outcome.done


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds is {text!r}; give different whole numbers from 0, separated by commas: 0,1,2.")
    return seeds
