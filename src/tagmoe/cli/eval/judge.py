"""`tagmoe eval judge`: a vision-language model judges the outputs of runs, after it has proved that it can."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.eval.options import Bench, Limit, Runs, Tasks, log_failures, names_of
from tagmoe.cli.options import AsJson, FixedSeed
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import lasting_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, ServedModel, Timeout, open_vlm
from tagmoe.errors import ResultError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tagmoe.evaluate.judging.judge import Judge
    from tagmoe.evaluate.judging.judgements import Judged
    from tagmoe.evaluate.judging.self_test import SelfTest

Price = Annotated[float | None, typer.Option(min=0, max=10**6, help="Price of a million tokens, to say what it costs.")]


def judge(
    bench: Bench,
    runs: Runs,
    by: Annotated[
        str, typer.Option("--judge", help="A judge by name (docs/judges.md), or a YAML file that describes one.")
    ] = "vllmq",
    endpoints: Endpoints = None,
    model: ServedModel = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder of the run that a judge that compares prefers or not.")
    ] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 120.0,
    price_in: Price = None,
    price_out: Price = None,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Have a model judge outputs; its raw answers are kept, and the same command goes on after a stop.

    First it must tell right answers from copies, other edits' answers and black pictures; a judge that cannot is
    refused. An answer that is no number of its scale is a missing value, and the exit code is 1.
    Example: tagmoe eval judge bench mine --judge vllmq --endpoint URL --model NAME
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.judging.description import read_judge
    from tagmoe.evaluate.judging.judge import Judge
    from tagmoe.evaluate.judging.judgements import judge_run
    from tagmoe.evaluate.judging.self_test import self_test
    from tagmoe.evaluate.run_folder import read_run

    description, names = read_judge(by), names_of(tasks)
    prepared = read_prepared(bench)
    opened = [read_run(folder, prepared) for folder in runs]
    other = None if against is None else read_run(against, prepared)
    rewards = description.answers == "head"
    vlm = open_vlm(endpoints or [], model, concurrency=concurrency, timeout=timeout, rewards=rewards)
    made = Judge(description, vlm, seed=seed)
    proof = asyncio.run(proved(made, self_test(made, in_flight=min(concurrency, 8))))
    log_test(made, proof)
    if not proof.passed:
        raise ResultError(
            f"The judge {made.name!r} by {vlm.model!r} fails its self-test: {'; '.join(proof.faults)}. It is not used."
        )
    total = len(prepared.chosen(names, limit))
    asked = sum(made.why_not(case) is None for _, case in prepared.chosen(names, limit)) * len(opened)
    log(_estimate(proof, asked, concurrency, price_in, price_out))
    data: dict[str, Any] = {}
    has_failed = False
    for run in opened:
        with lasting_bar(f"judging {run.folder.name}", total) as done:
            judged = judge_run(
                prepared,
                run,
                made,
                against=other,
                tasks=names,
                limit=limit,
                in_flight=concurrency,
                on_cases=done,
            )
        data[str(run.folder)] = _logged(run.name, judged, total, made)
        has_failed = has_failed or bool(judged.failed)
    result = {"judge": made.name, "model": vlm.model, "self_test": proof.as_data(), "runs": data}
    print_result(result, "\n".join(map(str, runs)), as_json=as_json)
    if has_failed:
        raise typer.Exit(1)


async def proved(judge: Judge, test: Coroutine[Any, Any, SelfTest]) -> SelfTest:
    """The self-test; the connections belong to its event loop, and are closed with it."""
    try:
        return await test
    finally:
        await judge.vlm.close()


def log_test(judge: Judge, proof: SelfTest) -> None:
    """What the self-test found."""
    means = ", ".join(f"{name} {value:.2f}" for name, value in proof.means.items() if value is not None)
    what = "right answer preferred to" if judge.description.compares else "means"
    apart = "" if proof.apart is None else f"; asked again {proof.apart:.2f} apart"
    log(f"self-test on {counted(proof.cases, 'case')}: {what}: {means or 'no usable answer'}{apart}")


def _estimate(proof: SelfTest, cases: int, concurrency: int, price_in: float | None, price_out: float | None) -> str:
    """What the work will take, by the self-test."""
    seconds = proof.seconds * cases / max(1, min(concurrency, cases))
    parts = [f"{counted(cases, 'case')} at most to judge, about {max(1, round(seconds / 60)):,} min"]
    if proof.tokens is not None:
        first, second = (round(count * cases) for count in proof.tokens)
        parts.append(f"about {first:,} tokens in and {second:,} out")
        if price_in is not None or price_out is not None:
            parts.append(f"about {(first * (price_in or 0) + second * (price_out or 0)) / 1e6:,.2f} at the given price")
    return ", ".join(parts)


def _logged(name: str, judged: Judged, total: int, judge: Judge) -> dict[str, Any]:
    found = [score.values[judge.name] for score in judged.scores if judge.name in score.values]
    mean = f", mean {sum(found) / len(found):.3f}" if found else ""
    asked = sum(judged.asked.values())
    log(
        f"{name}: {len(found):,} of {counted(total, 'case')} judged{mean}; {asked:,} asked now, {judged.known:,} "
        f"known, {judged.not_applicable:,} not for this judge, {judged.without_output:,} without an output"
    )
    for note, count in judged.notes.items():
        log(f"  {note}: {counted(count, 'answer')}")
    log_failures(list(judged.failed))
    return {
        "judged": len(found),
        "asked": dict(judged.asked),
        "known": judged.known,
        "not_applicable": judged.not_applicable,
        "without_output": judged.without_output,
        "notes": dict(judged.notes),
        "failures": [{"id": one, "status": status, "reason": reason} for one, status, reason in judged.failed],
    }
