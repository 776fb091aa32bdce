"""Means of each editor with their intervals, micro and macro, by task, and paired differences to one of them.

micro: the mean over all cases that have a value. macro: the mean of the means of the tasks. Intervals are bootstraps of
groups: cases of one source picture are drawn together. An outcome (0 or 1) of independent cases has Wilson's interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagmoe.errors import ResultError, UsageError
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.comparison.labels import labelled
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.evaluate.metrics.registry import METRICS, kind_of, metric_names
from tagmoe.evaluate.run_folder import Run
from tagmoe.evaluate.scoring import Score, judges_of, read_basis, read_scores
from tagmoe.intervals import Bootstrap, Interval, wilson

Number = Interval[float | None]
NO_OUTPUT = "no_output"


@dataclass(frozen=True)
class Figure:
    """A mean of one editor. cases: that have a value. applicable: cases that should have one. lacking: how many lack
    it, by why; `no_output`: the run has no picture."""

    micro: Number
    macro: Number
    cases: int
    applicable: int
    lacking: Mapping[str, int]

    @property
    def coverage(self) -> float | None:
        """The share of the applicable cases that have a value."""
        return self.cases / self.applicable if self.applicable else None


@dataclass(frozen=True)
class Difference:
    """Editor minus baseline over the cases where both have a value. pairs: how many."""

    value: Number
    pairs: int


@dataclass(frozen=True)
class Editor:
    """All figures of one run. by_task: task -> measure -> mean with interval; n of it is the number of groups.
    bases: what the values of each learned metric rest on."""

    run: Run
    statuses: Mapping[str, int]
    figures: Mapping[str, Figure]
    by_task: Mapping[str, Mapping[str, Number]]
    task_cases: Mapping[str, Mapping[str, int]]
    differences: Mapping[str, Difference]
    values: Mapping[str, np.ndarray]
    resized: int
    versions: Mapping[str, int]
    bases: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Summary:
    """Several runs on one benchmark. baseline: the name of the run that differences are to; None for a single run.
    applicable: task -> measure -> cases that should have a value. metrics: measure -> the metric that gives it."""

    prepared: Prepared
    measures: Mapping[str, Measure]
    metrics: Mapping[str, str]
    editors: tuple[Editor, ...]
    names: tuple[str, ...]
    baseline: str | None
    draws: int
    seed: int
    groups: int
    applicable: Mapping[str, Mapping[str, int]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the benchmark."""
        return tuple(self.prepared.manifest.tasks)


def summarise(
    prepared: Prepared, runs: Sequence[Run], *, baseline: str | None = None, draws: int = 2000, seed: int = 0
) -> Summary:
    """The figures of these runs, in their order.

    baseline: the name of a run, by default the first. Runs of one name are told apart by their folders.
    Raises UsageError for an unknown baseline. Raises ResultError where a run has no scores, and where two were scored
    by different versions of a metric.
    """
    names = _names(runs)
    if baseline is not None and baseline not in names:
        raise UsageError(f"There is no run {baseline!r} to compare with; give one of {', '.join(names)}.")
    base = names.index(baseline) if baseline is not None else 0
    kinds = metrics_of(runs)
    scores = [read_scores(run, list(kinds)) for run in runs]
    for run, found in zip(runs, scores, strict=True):
        if not found:
            raise ResultError(f"The run {str(run.folder)!r} has no scores; run tagmoe eval score.")
    _check_scores(runs, scores, kinds)
    kinds = {name: kind for name, kind in kinds.items() if any(name in found for found in scores)}
    measures = {measure.name: measure for _, own in kinds.values() for measure in own}
    tables = [_values(prepared, found, measures) for found in scores]
    applies = _applies(prepared, scores, measures)
    groups = _groups(prepared)
    bootstrap = Bootstrap(draws, seed)
    drawn = _Drawn(prepared, groups, bootstrap)
    values = np.stack([np.stack([table[name] for name in measures], axis=1) for table in tables])  # (R, cases, M)
    micro, macro, by_task = drawn.means(values)
    tasks = np.array([case.task for case in prepared.cases])
    outcomes = {name: measure.kind == "outcome" for name, measure in measures.items()}
    editors = []
    for number, (run, found) in enumerate(zip(runs, scores, strict=True)):
        figures = {}
        for place, name in enumerate(measures):
            have = np.isfinite(values[number, :, place])
            overall = _outcome(values[number, :, place], groups, have) if outcomes[name] else None
            figures[name] = Figure(
                micro=overall or micro[number][place],
                macro=macro[number][place],
                cases=int(have.sum()),
                applicable=int(applies[name].sum()),
                lacking=_lacking(prepared, run, found, name, applies[name] & ~have),
            )
        differences = {}
        if len(runs) > 1 and number != base:
            minus = values[number] - values[base]
            changed, _, _ = drawn.means(minus[None], with_tasks=False)
            differences = {
                name: Difference(changed[0][place], int(np.isfinite(minus[:, place]).sum()))
                for place, name in enumerate(measures)
            }
        editors.append(
            Editor(
                run=run,
                statuses=_statuses(prepared, run),
                figures=figures,
                by_task={
                    task: {
                        name: (_outcome(values[number, :, place], groups, tasks == task) if is_outcome else None)
                        or by_task[task][number][place]
                        for place, (name, is_outcome) in enumerate(outcomes.items())
                    }
                    for task in prepared.manifest.tasks
                },
                task_cases=_task_cases(prepared, tables[number]),
                differences=differences,
                values=tables[number],
                resized=len({row.case for rows in found.values() for row in rows.values() if row.resized}),
                versions={name: next(iter(rows.values())).version for name, rows in found.items()},
                bases={name: read_basis(run, name) for name in found if name not in METRICS},
            )
        )
    return Summary(
        prepared=prepared,
        measures={name: labelled(prepared, measure) for name, measure in measures.items()},
        metrics={measure.name: name for name, (_, own) in kinds.items() for measure in own},
        editors=tuple(editors),
        names=tuple(names),
        baseline=names[base] if len(runs) > 1 else None,
        draws=draws,
        seed=seed,
        groups=len(set(groups.tolist())),
        applicable={
            task: {name: int(asked[tasks == task].sum()) for name, asked in applies.items()}
            for task in prepared.manifest.tasks
        },
    )


class _Drawn:
    """Bootstrap means of many columns of values at once."""

    def __init__(self, prepared: Prepared, groups: np.ndarray, bootstrap: Bootstrap) -> None:
        self._groups, self._bootstrap = groups, bootstrap
        self._weights = bootstrap.weights(int(groups.max()) + 1)
        tasks = np.array([case.task for case in prepared.cases])
        self._cases_of = {task: np.flatnonzero(tasks == task) for task in prepared.manifest.tasks}

    def means(
        self, values: np.ndarray, *, with_tasks: bool = True
    ) -> tuple[list[list[Number]], list[list[Number]], dict[str, list[list[Number]]]]:
        """Of (R, cases, M) with NaN for no value: micro, macro and by task, each (R, M) intervals."""
        runs, _, columns = values.shape
        flat = values.transpose(1, 0, 2).reshape(-1, runs * columns)
        has = np.isfinite(flat)
        filled = np.where(has, flat, 0.0)
        draws = self._bootstrap.draws
        sums, counts = np.zeros((draws, flat.shape[1])), np.zeros((draws, flat.shape[1]))
        of_tasks, tasks_in = np.zeros_like(sums), np.zeros_like(sums)
        macro, macro_tasks = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
        by_task: dict[str, list[list[Number]]] = {}
        for task, cases in self._cases_of.items():
            present, place = np.unique(self._groups[cases], return_inverse=True)
            grouped = np.zeros((2, len(present), flat.shape[1]))
            np.add.at(grouped[0], place, filled[cases])
            np.add.at(grouped[1], place, has[cases])
            weights = self._weights[:, present]
            # Centred, so that single precision keeps the digits.
            centre = grouped[0].sum(axis=0) / np.maximum(grouped[1].sum(axis=0), 1)
            count = (weights @ grouped[1].astype(np.float32)).astype(np.float64)
            deviation = weights @ (grouped[0] - centre * grouped[1]).astype(np.float32)
            total = deviation + centre * count
            sums += total
            counts += count
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.where(count > 0, total / count, np.nan)
            of_tasks += np.nan_to_num(mean)
            tasks_in += count > 0
            known = grouped[1].sum(axis=0) > 0
            macro += np.where(known, centre, 0.0)
            macro_tasks += known
            if with_tasks:
                own = np.where(known, centre, np.nan)
                by_task[task] = self._intervals(own, mean, (grouped[1] > 0).sum(axis=0), runs)
        with np.errstate(invalid="ignore", divide="ignore"):
            micro_draws, macro_draws = sums / counts, of_tasks / tasks_in
            micro = filled.sum(axis=0) / has.sum(axis=0)
            macro = macro / macro_tasks
        groups = np.array([len(np.unique(self._groups[column])) for column in has.T])
        return (
            self._intervals(micro, micro_draws, groups, runs),
            self._intervals(macro, macro_draws, groups, runs),
            by_task,
        )

    def _intervals(self, values: np.ndarray, draws: np.ndarray, groups: np.ndarray, runs: int) -> list[list[Number]]:
        # Rounding of single precision must not put a bound of zero below zero.
        size = np.abs(np.nan_to_num(draws))
        draws = np.where(size < 1e-6 * size.max(axis=0), 0.0, draws)
        found = [
            self._bootstrap.interval(float(value), draws[:, column], int(groups[column]))
            for column, value in enumerate(values)
        ]
        columns = len(found) // runs
        return [found[start : start + columns] for start in range(0, len(found), columns)]


def _names(runs: Sequence[Run]) -> list[str]:
    """The name of each run; of equal ones with the name of the folder, and then with a number."""
    names = [run.name for run in runs]
    named = [
        name if names.count(name) == 1 else f"{name} ({run.folder.name})" for name, run in zip(names, runs, strict=True)
    ]
    return [
        name if named.count(name) == 1 else f"{name} {named[: place + 1].count(name)}"
        for place, name in enumerate(named)
    ]


def metrics_of(runs: Sequence[Run]) -> dict[str, tuple[int, tuple[Measure, ...]]]:
    """Every metric, and the judges of these runs, with version and measures."""
    judges = {name: (1, measures) for run in runs for name, measures in judges_of(run).items()}
    return {**{name: kind_of(name) for name in metric_names()}, **judges}


def _check_scores(
    runs: Sequence[Run],
    scores: Sequence[Mapping[str, Mapping[str, Score]]],
    kinds: Mapping[str, tuple[int, tuple[Measure, ...]]],
) -> None:
    """Refuse scores by another version or other weights of a metric, and values that it cannot give."""
    bases: dict[str, tuple[Run, Score]] = {}
    for run, found in zip(runs, scores, strict=True):
        for name, rows in found.items():
            version, measures = kinds[name]
            for row in rows.values():
                if row.version != version:
                    raise ResultError(
                        f"The run {str(run.folder)!r} was scored by version {row.version} of the metric {name!r}, and "
                        f"this tagmoe has {version}; run tagmoe eval score again."
                    )
                other, first = bases.setdefault(name, (run, row))
                if row.basis != first.basis:
                    raise ResultError(
                        f"The metric {name!r} rests on other weights or choices in {str(run.folder)!r} "
                        f"({row.id!r}) than in {str(other.folder)!r}; run tagmoe eval score on both with the same."
                    )
                if not row.is_of(measures):
                    raise ResultError(
                        f"The scores of {row.id!r} in {str(run.folder)!r} are none that the metric {name!r} gives; run "
                        "tagmoe eval score again."
                    )


def _values(
    prepared: Prepared, scores: Mapping[str, Mapping[str, Score]], measures: Mapping[str, Measure]
) -> dict[str, np.ndarray]:
    """Each measure's value for every case in its order (cases,) float64; NaN where there is none."""
    place_of = {case.key: place for place, case in enumerate(prepared.cases)}
    found = {name: np.full(len(prepared.cases), np.nan) for name in measures}
    for rows in scores.values():
        for key, row in rows.items():
            if (place := place_of.get(key)) is not None:
                for name, value in row.values.items():
                    found[name][place] = value
    return found


def _applies(
    prepared: Prepared, scores: Sequence[Mapping[str, Mapping[str, Score]]], measures: Mapping[str, Measure]
) -> dict[str, np.ndarray]:
    """(cases,) bool for each measure: whether the case asks for it. Where no run has an output, it is taken to."""
    place_of = {case.key: place for place, case in enumerate(prepared.cases)}
    found = {name: np.ones(len(prepared.cases), dtype=bool) for name in measures}
    for runs in scores:
        for rows in runs.values():
            for key, row in rows.items():
                for name, reason in row.lacking.items():
                    if reason.status == "not_applicable" and key in place_of:
                        found[name][place_of[key]] = False
    return found


def _groups(prepared: Prepared) -> np.ndarray:
    """The group of each case (cases,) int: cases with the same source, or the same first reference, err together.

    A benchmark may name the group, where one picture becomes the next.
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group_of(case), len(numbers)) for case in prepared.cases])


def group_of(case: Case) -> str:
    """The group that a case is drawn with."""
    if "group" in case.meta:
        return f"group {case.meta['group']}"
    return case.source or next(iter(case.refs), case.key)


def _outcome(values: np.ndarray, groups: np.ndarray, cases: np.ndarray) -> Number | None:
    """Wilson's interval of the outcomes of these cases (bool), if they are independent; None where they share a source.

    Where all succeed, a bootstrap would say that there is no doubt at all.
    """
    has = cases & np.isfinite(values)
    values, groups = values[has], groups[has]
    if not len(values) or len(np.unique(groups)) < len(groups):
        return None
    share = wilson(int(values.sum()), len(values))
    return Interval(share.n, share.value, share.low, share.high)


def _lacking(
    prepared: Prepared, run: Run, scores: Mapping[str, Mapping[str, Score]], name: str, cases: np.ndarray
) -> dict[str, int]:
    """How many of these cases lack a value, by why."""
    reasons: Counter[str] = Counter()
    rows = next(
        (found for found in scores.values() if any(name in r.values or name in r.lacking for r in found.values())), {}
    )
    for place in np.flatnonzero(cases):
        key = prepared.cases[place].key
        row, answer = rows.get(key), run.answers.get(key)
        if answer is None or answer.file is None:
            reasons[NO_OUTPUT] += 1
        else:
            reasons["not_scored" if row is None else row.lacking[name].status] += 1
    return dict(reasons)


def _statuses(prepared: Prepared, run: Run) -> dict[str, int]:
    """How many cases of the benchmark the run has of each status."""
    found = [run.answers.get(case.key) for case in prepared.cases]
    return dict(Counter("not_generated" if answer is None else answer.status for answer in found))


def _task_cases(prepared: Prepared, table: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Task -> measure -> cases that have a value."""
    tasks = np.array([case.task for case in prepared.cases])
    return {
        task: {name: int(np.isfinite(values[tasks == task]).sum()) for name, values in table.items()}
        for task in prepared.manifest.tasks
    }


def as_data(summary: Summary) -> dict[str, Any]:
    """The summary as plain data, for report.json and --json; what is not defined is null."""
    manifest = summary.prepared.manifest
    return {
        "benchmark": manifest.benchmark,
        "cases": manifest.cases,
        "cases_digest": manifest.digest,
        "licence": manifest.licence,
        "made_from": manifest.made_from,
        "repository": manifest.repository,
        "revision": manifest.revision,
        "settings": manifest.settings,
        "left_out": len(manifest.left_out),
        "baseline": summary.baseline,
        "bootstrap": {"draws": summary.draws, "seed": summary.seed, "groups": summary.groups},
        "editors": {
            name: _editor(editor, summary.applicable)
            for name, editor in zip(summary.names, summary.editors, strict=True)
        },
    }


def _editor(editor: Editor, applicable: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    facts = editor.run.facts
    return {
        "key": facts.key,
        **facts.model_dump(exclude={"format", "benchmark", "cases"}),
        "metric_versions": dict(editor.versions),
        "learned_metrics": {name: dict(basis) for name, basis in editor.bases.items()},
        "statuses": dict(editor.statuses),
        "resized": editor.resized,
        "figures": {
            name: {
                "micro": figure.micro.as_data(),
                "macro": figure.macro.as_data(),
                "n": figure.cases,
                "applicable": figure.applicable,
                "coverage": figure.coverage,
                "lacking": dict(figure.lacking),
            }
            for name, figure in editor.figures.items()
        },
        "differences": {
            name: {**difference.value.as_data(), "n": difference.pairs}
            for name, difference in editor.differences.items()
        },
        "tasks": {
            task: {
                name: {
                    **interval.as_data(),
                    "n": editor.task_cases[task][name],
                    "applicable": applicable[task][name],
                }
                for name, interval in found.items()
            }
            for task, found in editor.by_task.items()
        },
    }
