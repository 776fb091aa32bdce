"""Measure a judge: let it judge runs whose truth is known, and put its values beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tagmoe.errors import ResultError, UsageError
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.comparison.summary import group_of
from tagmoe.evaluate.judging.calibration import (
    Calibration,
    Compared,
    Observed,
    calibrate,
    calibrate_comparing,
)
from tagmoe.evaluate.judging.judge import Judge, Reply
from tagmoe.evaluate.judging.judgements import judge_run
from tagmoe.evaluate.run_folder import Run
from tagmoe.evaluate.scoring import read_scores

Truth = Mapping[tuple[str, str], float]
"""(name of the run's folder, key of the case) -> how good the output is."""


def truths(prepared: Prepared, runs: Sequence[Run], labels: Mapping[tuple[str, str], float] | None) -> Truth:
    """The truth of the outputs: of labels by (folder, id), or the oracle's strict success.

    Raises ResultError where a run was not scored by the oracle, UsageError for labels of no run or case.
    """
    if labels is not None:
        keys = {case.id: case.key for case in prepared.cases}
        known = {run.folder.name for run in runs}
        for folder, name in labels:
            if folder not in known or name not in keys:
                raise UsageError(f"A label is of the case {name!r} of the run {folder!r}, which is not among these.")
        return {(folder, keys[name]): label for (folder, name), label in labels.items()}
    found: dict[tuple[str, str], float] = {}
    for run in runs:
        scores = read_scores(run, ["oracle"]).get("oracle", {})
        own = {key: row.values["success"] for key, row in scores.items() if "success" in row.values}
        if not own:
            raise ResultError(
                f"The run {str(run.folder)!r} has no scores of the oracle; run tagmoe eval score, or give --labels."
            )
        found |= {(run.folder.name, key): value for key, value in own.items()}
    return found


def measure(
    prepared: Prepared,
    runs: Sequence[Run],
    judge: Judge,
    truth: Truth,
    out: Path,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    in_flight: int = 64,
    draws: int = 2000,
    seed: int = 0,
    on_cases: Callable[[int], None] | None = None,
) -> Calibration:
    """Judge the outputs, keep the answers below `out`, and compare with the truth.

    A judge that compares is asked about the first run against each other one. Raises UsageError for such a judge and
    one run alone.
    """
    compares = judge.description.compares
    if compares and len(runs) < 2:
        raise UsageError(f"The judge {judge.name!r} compares; give two runs or more.")
    chosen = [case for _, case in prepared.chosen(tasks, limit)]
    done = 0

    def count(cases: int) -> None:
        if on_cases is not None:
            on_cases(done + cases)

    outputs: list[Observed] = []
    pairs: list[Compared] = []
    for run in runs[1:] if compares else runs:
        first = runs[0] if compares else run
        name = f"{first.folder.name}-{run.folder.name}" if compares else run.folder.name
        judged = judge_run(
            prepared,
            first,
            judge,
            against=run if compares else None,
            tasks=tasks,
            limit=limit,
            in_flight=in_flight,
            out=out / name,
            on_cases=count,
        )
        done += len(chosen)
        values = {score.case: score.values.get(judge.name) for score in judged.scores}
        for case in chosen:
            if case.key not in judged.rows:
                continue
            if compares:
                ours, theirs = (truth.get((one.folder.name, case.key)) for one in (first, run))
                if ours is not None and theirs is not None:
                    swayed = _swayed(judged.rows[case.key].replies)
                    pairs.append(Compared(group_of(case), case.task, values[case.key], swayed, ours - theirs))
            elif (label := truth.get((run.folder.name, case.key))) is not None:
                outputs.append(_observed(run, case, values[case.key], label))
    if not outputs and not pairs:
        raise ResultError("No output has both an answer of the judge and a truth; nothing can be said.")
    if compares:
        return calibrate_comparing(pairs, draws=draws, seed=seed)
    return calibrate(outputs, judge.description.middle, draws=draws, seed=seed)


def _observed(run: Run, case: Case, value: float | None, truth: float) -> Observed:
    return Observed(run.folder.name, case.key, group_of(case), case.task, value, truth)


def _swayed(replies: Sequence[Reply]) -> bool | None:
    """Whether the output shown first was taken in both orders (True) or in none (False); None otherwise."""
    numbers = [reply.numbers[0] for reply in replies if reply.numbers]
    if len(numbers) < 2 or 0.5 in numbers or numbers[0] != numbers[1]:
        return None
    return numbers[0] == 1.0
