"""Judging the judge: its values beside the truth, which TagWorld's oracle or a labelled set gives.

For each judge: correlation with the truth, how often it puts two outputs of one case in the right order, how often it
calls wrong outputs right and right ones wrong, by task, each with an interval; and its fault by name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.intervals import Bootstrap, Interval, wilson
from tagmoe.sentences import cut, reason_of

Number = Interval[float | None]
MOST_WRONG = 0.2
"""A judge that calls more of the wrong outputs right flatters; more of the right ones wrong: is too strict. [ours]"""
NOISE = 0.05
"""A judge that errs more than this both ways is noisy. [ours]"""
LEAST_ANSWERED = 0.9
LEAST_AGREEING = 0.75
FIRST = 0.75
"""Of the pairs where the order decides, so many for the output that is shown first are a preference for it. [ours]"""


@dataclass(frozen=True)
class Observed:
    """An output with the value of a judge (None: none) and its truth. group: outputs of one group err together.
    truth: 1 for right and 0 for wrong, or any number that grows with the quality."""

    run: str
    case: str
    group: str
    task: str
    value: float | None
    truth: float


@dataclass(frozen=True)
class Calibration:
    """How good a judge is.

    coverage: share of outputs with a value. correlation: Pearson's, with the truth. order: share of pairs of one case,
    of unequal truth, that it puts in the right order (ties count a half). wrong_as_right, right_as_wrong: shares at the
    middle of its scale, where the truth is 0 or 1. tasks: the order by task. faults: by name; empty if none is found.
    """

    n: int
    coverage: Interval[float]
    correlation: Number
    order: Number
    pairs: int
    wrong_as_right: Interval[float] | None
    right_as_wrong: Interval[float] | None
    tasks: Mapping[str, tuple[int, float | None]]
    faults: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""

        def shown(interval: Interval[Any] | None) -> dict[str, Any] | None:
            return None if interval is None else {**interval.as_data(), "n": interval.n}

        return {
            "n": self.n,
            "coverage": shown(self.coverage),
            "correlation": shown(self.correlation),
            "order": {**self.order.as_data(), "pairs": self.pairs},
            "wrong_as_right": shown(self.wrong_as_right),
            "right_as_wrong": shown(self.right_as_wrong),
            "tasks": {task: {"pairs": pairs, "order": value} for task, (pairs, value) in self.tasks.items()},
            "faults": list(self.faults),
        }


def calibrate(observed: Sequence[Observed], middle: float | None, *, draws: int = 2000, seed: int = 0) -> Calibration:
    """The figures of a judge that gives a value to each output. middle: of its scale; None where it has none, so that
    nobody can say what it calls right."""
    known = [one for one in observed if one.value is not None]
    bootstrap = Bootstrap(draws, seed)
    pairs = _pairs(known)
    is_binary = middle is not None and {one.truth for one in observed} <= {0.0, 1.0}
    calls = {
        truth: [
            one.value is not None and middle is not None and one.value >= middle for one in known if one.truth == truth
        ]
        for truth in (0.0, 1.0)
    }
    wrong_as_right = wilson(sum(calls[0.0]), len(calls[0.0])) if is_binary else None
    right_as_wrong = wilson(len(calls[1.0]) - sum(calls[1.0]), len(calls[1.0])) if is_binary else None
    correlation = _correlation(known, bootstrap)
    order = _mean_of([(group, value) for group, _, value in pairs], bootstrap)
    by_task: dict[str, list[float]] = {}
    for _, task, value in pairs:
        by_task.setdefault(task, []).append(value)
    coverage = wilson(len(known), len(observed))
    return Calibration(
        n=len(observed),
        coverage=coverage,
        correlation=correlation,
        order=order,
        pairs=len(pairs),
        wrong_as_right=wrong_as_right,
        right_as_wrong=right_as_wrong,
        tasks={task: (len(values), float(np.mean(values))) for task, values in sorted(by_task.items())},
        faults=_faults(coverage, correlation, wrong_as_right, right_as_wrong),
    )


@dataclass(frozen=True)
class Compared:
    """A pair with the answers of a judge that compares.

    value: how far it prefers the first run, 0 to 1. first: of a pair in whose two orders it answers differently,
    whether it took the one shown first; None where the orders agree, or for a tie. truth: of the first run minus the
    other's.
    """

    group: str
    task: str
    value: float | None
    first: bool | None
    truth: float


def calibrate_comparing(observed: Sequence[Compared], *, draws: int = 2000, seed: int = 0) -> Calibration:
    """The figures of a judge that compares. truth: of the first run minus that of the other; pairs of 0 say nothing."""
    known = [one for one in observed if one.value is not None]
    told = [one for one in known if one.truth]
    scores = [
        (one.group, one.task, 0.5 if one.value == 0.5 else float((one.value > 0.5) == (one.truth > 0)))
        for one in told
        if one.value is not None
    ]
    bootstrap = Bootstrap(draws, seed)
    as_outputs = [Observed("", "", one.group, one.task, one.value, one.truth) for one in known]
    order = _mean_of([(group, value) for group, _, value in scores], bootstrap)
    coverage = wilson(len(known), len(observed))
    faults = list(_unanswered(coverage))
    if order.value is None or order.low is None or order.low <= 0.5:
        faults.append("does not see: its preferences are not related to the truth")
    swayed = [one.first for one in known if one.first is not None]
    if known and len(swayed) > (1 - LEAST_AGREEING) * len(known):
        share = sum(swayed) / len(swayed)
        place = "first" if share >= FIRST else "second"
        fault = "unsteady" if 1 - FIRST < share < FIRST else f"prefers the one shown {place}"
        faults.append(f"{fault}: exchanged, {len(swayed)} of {len(known)} pairs get another answer")
    by_task: dict[str, list[float]] = {}
    for _, task, value in scores:
        by_task.setdefault(task, []).append(value)
    return Calibration(
        n=len(observed),
        coverage=coverage,
        correlation=_correlation(as_outputs, bootstrap),
        order=order,
        pairs=len(scores),
        wrong_as_right=None,
        right_as_wrong=None,
        tasks={task: (len(values), float(np.mean(values))) for task, values in sorted(by_task.items())},
        faults=tuple(faults),
    )


def _faults(
    coverage: Interval[float],
    correlation: Number,
    wrong_as_right: Interval[float] | None,
    right_as_wrong: Interval[float] | None,
) -> tuple[str, ...]:
    faults = list(_unanswered(coverage))
    is_blind = correlation.value is None or (correlation.low is not None and correlation.low <= 0)
    flatters = wrong_as_right is not None and wrong_as_right.n > 0 and wrong_as_right.value > MOST_WRONG
    is_strict = right_as_wrong is not None and right_as_wrong.n > 0 and right_as_wrong.value > MOST_WRONG
    if is_blind:
        faults.append("does not see: its values are not related to the truth")
    elif flatters and not is_strict and wrong_as_right is not None:
        faults.append(f"flatters: calls {wrong_as_right.value:.0%} of the wrong outputs right")
    elif is_strict and not flatters and right_as_wrong is not None:
        faults.append(f"too strict: calls {right_as_wrong.value:.0%} of the right outputs wrong")
    elif wrong_as_right and right_as_wrong and min(wrong_as_right.value, right_as_wrong.value) > NOISE:
        faults.append(
            f"noisy: calls {wrong_as_right.value:.0%} of the wrong outputs right and {right_as_wrong.value:.0%} of the "
            "right ones wrong"
        )
    return tuple(faults)


def _unanswered(coverage: Interval[float]) -> tuple[str, ...]:
    if coverage.value >= LEAST_ANSWERED:
        return ()
    return (f"leaves out: no usable answer for {1 - coverage.value:.0%} of the outputs",)


def _pairs(known: Sequence[Observed]) -> list[tuple[str, str, float]]:
    """(group, task, 1, 0 or a half) for each two outputs of one case of unequal truth."""
    of_case: dict[str, list[Observed]] = {}
    for one in known:
        of_case.setdefault(one.case, []).append(one)
    found = []
    for outputs in of_case.values():
        for a, b in combinations(outputs, 2):
            if a.truth == b.truth or a.value is None or b.value is None:
                continue
            higher = a.value - b.value if a.truth > b.truth else b.value - a.value
            found.append((a.group, a.task, 0.5 if higher == 0 else float(higher > 0)))
    return found


def _sums(groups: Sequence[str], columns: np.ndarray) -> np.ndarray:
    """Sums of the rows (n, k) over each group: (groups, k)."""
    _, place = np.unique(np.array(groups), return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums


def _figure(
    groups: Sequence[str], columns: np.ndarray, of: Callable[[np.ndarray], np.ndarray], bootstrap: Bootstrap
) -> Number:
    """A figure that is made of sums of columns (n, k), with its interval over groups."""
    if not groups:
        return Interval(0, None, None, None)
    sums = _sums(groups, columns)
    value = float(of(sums.sum(axis=0)[None])[0])
    draws = of(bootstrap.weights(len(sums)).astype(np.float64) @ sums)
    return bootstrap.interval(value, draws, len(sums))


def _mean_of(values: Sequence[tuple[str, float]], bootstrap: Bootstrap) -> Number:
    columns = np.array([[value, 1.0] for _, value in values]).reshape(-1, 2)

    def mean(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[:, 0] / sums[:, 1])

    return _figure([group for group, _ in values], columns, mean, bootstrap)


def _correlation(known: Sequence[Observed], bootstrap: Bootstrap) -> Number:
    """Pearson's correlation of values and truth; not defined where one of them never changes."""
    x, y = (np.array([getattr(one, name) for one in known], dtype=np.float64) for name in ("value", "truth"))
    if not len(x):
        return Interval(0, None, None, None)
    x, y = x - x.mean(), y - y.mean()
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def pearson(sums: np.ndarray) -> np.ndarray:
        n, sx, sy, sxx, syy, sxy = sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (n * sxx - sx**2) * (n * syy - sy**2)
            return np.where(spread > 1e-12 * n**4, (n * sxy - sx * sy) / np.sqrt(np.abs(spread)), np.nan)

    return _figure([one.group for one in known], columns, pearson, bootstrap)


def read_labels(file: Path) -> dict[tuple[str, str], float]:
    """{(name of the run's folder, id of the case): label} of a CSV file with the columns run, id and label.

    Raises UsageError for another file.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
        found = {(row["run"], row["id"]): float(row["label"]) for row in rows}
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"The labels {str(file)!r} cannot be read ({reason_of(error)}).") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"The labels {str(file)!r} are no table of run, id and label ({cut(reason_of(error))})."
        ) from None
    if not found or not all(np.isfinite(list(found.values()))):
        raise UsageError(f"The labels {str(file)!r} hold no numbers; give the columns run, id and label.")
    return found
