"""The gate of a registered experiment: the one look at results before its end, and only at the positive controls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tagmoe.errors import ResultError
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.registered.plan import Experiment, run_name
from tagmoe.laboratory.registered.result import RegisteredRun, read_run

GATE = "gate.json"


def evaluate_gate(experiment: Experiment, results: Path) -> bool | None:
    """Whether the experiment goes on; None while the gate's seeds are not all finished. Writes gate.json.

    An arm passes when its flow loss is below the baseline's in every one of the seeds. The experiment goes on when any
    arm passes. A diverged run does not pass, and a diverged baseline is passed by none.
    """
    gate = experiment.plan.gate
    if gate is None:
        return True
    seeds = experiment.plan.seeds[: gate.seeds]
    found: dict[str, list[float | None]] = {}
    for arm in (gate.baseline, *gate.arms):
        paths = [results / f"{run_name(arm, gate.conflict)}-seed-{seed}.json" for seed in seeds]
        if not all(path.is_file() for path in paths):
            return None
        found[arm] = [read_run(path).mean_flow for path in paths]
    gains = {arm: _gains(found[gate.baseline], found[arm]) for arm in gate.arms}
    passed = {arm: all(gain is not None and gain > 0 for gain in values) for arm, values in gains.items()}
    record = {
        "plan": experiment.digest,
        "seeds": list(seeds),
        "flow of the baseline minus that of the arm": gains,
        "passed": passed,
        "goes on": any(passed.values()),
    }
    write_whole(results / GATE, json.dumps(record, indent=1) + "\n")
    return any(passed.values())


def _gains(baseline: list[float | None], arm: list[float | None]) -> list[float | None]:
    return [None if one is None or two is None else one - two for one, two in zip(baseline, arm, strict=True)]


def finished_runs(experiment: Experiment, results: Path) -> Mapping[str, RegisteredRun]:
    """The finished runs of the experiment, by name. Raises ResultError for one of another plan or a damaged one."""
    found = {}
    for run in experiment.runs:
        path = results / f"{run.name}.json"
        if not path.is_file():
            continue
        result = read_run(path)
        if result.plan != experiment.digest:
            raise ResultError(
                f"The result {str(path)!r} is of another plan ({result.plan}, here {experiment.digest}); move it away, "
                "or restore the plan."
            )
        found[run.name] = result
    return found
