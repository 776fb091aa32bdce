"""`tagmoe eval calibrate`: a judge is judged, by TagWorld's oracle or by labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.eval.judge import log_test, proved
from tagmoe.cli.eval.options import Bench, Limit, Runs, Tasks, names_of
from tagmoe.cli.eval.report import Draws
from tagmoe.cli.options import AsJson, FixedSeed
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import lasting_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, ServedModel, Timeout, open_vlm
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.evaluate.judging.calibration import Calibration
    from tagmoe.intervals import Interval


def calibrate(
    bench: Bench,
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the judge's answers; one that is there goes on.")],
    by: Annotated[str, typer.Option("--judge", help="As of `tagmoe eval judge`.")] = "vllmq",
    labels: Annotated[
        Path | None, typer.Option(help="CSV with run, id and label; without it TagWorld's oracle is the truth.")
    ] = None,
    endpoints: Endpoints = None,
    model: ServedModel = None,
    tasks: Tasks = None,
    limit: Limit = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 120.0,
    draws: Draws = 2000,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Say how good a judge is: order of outputs, correlation with the truth, errors both ways, by task; and its fault.

    A judge that fails its self-test is measured all the same. One that compares is measured on the first run against
    the others. Example: tagmoe eval calibrate bench good bad --judge vllmq --endpoint URL --model NAME --out judged
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.judging.calibration import read_labels
    from tagmoe.evaluate.judging.description import read_judge
    from tagmoe.evaluate.judging.judge import Judge
    from tagmoe.evaluate.judging.measure import measure, truths
    from tagmoe.evaluate.judging.self_test import self_test
    from tagmoe.evaluate.run_folder import read_run

    description, names = read_judge(by), names_of(tasks)
    prepared = read_prepared(bench)
    opened = [read_run(folder, prepared) for folder in runs]
    if len({run.folder.name for run in opened}) < len(opened):
        raise UsageError("Two of the runs have folders of one name; rename one, because labels and answers go by it.")
    truth = truths(prepared, opened, None if labels is None else read_labels(labels))
    rewards = description.answers == "head"
    vlm = open_vlm(endpoints or [], model, concurrency=concurrency, timeout=timeout, rewards=rewards)
    judge = Judge(description, vlm, seed=seed)
    proof = asyncio.run(proved(judge, self_test(judge, in_flight=min(concurrency, 8))))
    log_test(judge, proof)
    log("the self-test is " + ("passed" if proof.passed else f"failed: {'; '.join(proof.faults)}"))
    with lasting_bar("judging", len(prepared.chosen(names, limit)) * (len(opened) - description.compares)) as done:
        found = measure(
            prepared,
            opened,
            judge,
            truth,
            out,
            tasks=names,
            limit=limit,
            in_flight=concurrency,
            draws=draws,
            seed=seed,
            on_cases=done,
        )
    _log(found)
    data = {"judge": judge.name, "model": vlm.model, "self_test": proof.as_data(), "calibration": found.as_data()}
    print_result(data, str(out), as_json=as_json)


def _log(found: Calibration) -> None:
    log(f"outputs {found.n:,}, with a value {_shown(found.coverage, percent=True)}")
    log(f"order of two outputs of a case {_shown(found.order, percent=True)}, {found.pairs:,} pairs")
    log(f"correlation with the truth {_shown(found.correlation)}")
    for name, value in (("wrong", found.wrong_as_right), ("right", found.right_as_wrong)):
        if value is not None:
            log(
                f"{name} outputs that it calls {'right' if name == 'wrong' else 'wrong'}: {_shown(value, percent=True)}"
            )
    log("fault: " + ("; ".join(found.faults) if found.faults else "none found"))


def _shown(interval: Interval[Any], *, percent: bool = False) -> str:
    if interval.value is None:
        return "not defined"
    factor, unit, digits = (100, " %", 1) if percent else (1, "", 2)
    value = f"{factor * interval.value:.{digits}f}{unit}"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"
