"""Paired differences of two arms over the same cases and seeds, and how many cases are needed to resolve one.

Two intervals answer two questions. Over cases: would these trained models differ on other cases? This is a bootstrap of
cases; all seeds of a case stay together, because they share its difficulty. Over seeds and cases: would the arms differ
when trained again? This is Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.intervals import LEVEL, Bootstrap, Interval, t_interval
from tagmoe.sentences import counted

Verdict = Literal["resolved", "resolved for these seeds", "not resolved"]
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and cases: of an arm, or of the difference of two arms.

    by_seed: the mean of each seed, in the order of `seeds`. cases: the number of cases with the quantity; 0 for a
    quantity with one value for each run. over_cases: the interval for these seeds; None for a quantity of a run, and
    below 5 cases. over_seeds: the interval for new seeds and cases; None with one seed. p: p-value of no difference,
    also for new seeds and cases.
    """

    value: float
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    cases: int
    over_cases: Interval[float] | None = None
    over_seeds: Interval[float] | None = None
    p: float | None = None

    @property
    def agreeing(self) -> int:
        """How many seeds have the sign of the mean."""
        return sum(value * self.value > 0 for value in self.by_seed)

    @property
    def verdict(self) -> Verdict:
        """Whether the sign of a difference is resolved, in general or for these seeds.

        When seeds disagree on the sign it is never resolved, however many cases there are.
        """
        if self.agreeing < len(self.seeds):
            return "not resolved"
        over_seeds = self.over_seeds is not None and self.over_seeds.excludes(0)
        over_cases = self.over_cases is None or self.over_cases.excludes(0)
        if over_seeds and over_cases:
            return "resolved"
        return "resolved for these seeds" if self.over_cases is not None and over_cases else "not resolved"


def estimate(values_SC: np.ndarray, seeds: Sequence[int], bootstrap: Bootstrap) -> Estimate | None:
    """The mean of values by seed and case. A case without the quantity is NaN in every seed.

    None when no case has the quantity. Raises UsageError for other shapes, and for a case that only some seeds have.
    """
    if values_SC.ndim != 2 or not seeds or len(values_SC) != len(seeds):
        raise UsageError(
            f"The values have the shape {values_SC.shape}; give one row for each of {counted(seeds, 'seed')}."
        )
    absent_SC = np.isnan(values_SC)
    if (absent_SC != absent_SC[0]).any():
        raise UsageError("A case has the quantity in one seed and not in another; give the same cases for all.")
    values_SC = values_SC[:, ~absent_SC[0]].astype(np.float64)
    count = values_SC.shape[1]
    if count == 0:
        return None
    over_cases = bootstrap.mean(values_SC.mean(axis=0))
    over_seeds, p = t_interval(values_SC) or (None, None)
    return Estimate(
        value=float(values_SC.mean()),
        seeds=tuple(seeds),
        by_seed=tuple(values_SC.mean(axis=1).tolist()),
        cases=count,
        over_cases=over_cases if over_cases.has_interval else None,
        over_seeds=over_seeds,
        p=p,
    )


def seed_estimate(values: Sequence[float], seeds: Sequence[int]) -> Estimate:
    """The mean of a quantity with one value for each run, or of its differences between arms, with t over seeds."""
    over_seeds, p = t_interval(np.array(values, dtype=np.float64)[:, None]) or (None, None)
    mean = math.fsum(values) / len(values)
    return Estimate(mean, tuple(seeds), tuple(map(float, values)), 0, over_seeds=over_seeds, p=p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values. At level 5 %, at most 5 % of such tables have a false difference."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Spread:
    """How two arms' verdicts differ. The number of cases that is needed follows from it.

    discordance: the mean square of a pair's difference; for yes-or-no verdicts, the share of different verdicts.
    correlation: that of a case's differences between two seeds; None with one seed. At 0, more seeds help as much as
    more cases; at 1, they do not help.
    """

    discordance: float
    correlation: float | None


def spread(differences_SC: np.ndarray) -> Spread:
    """The spread of paired differences by seed and case."""
    deviations = differences_SC - differences_SC.mean(axis=1, keepdims=True)
    count, variance = len(differences_SC), float((deviations**2).mean())
    correlation = None
    if count > 1 and variance > 0:
        # The variance of a case's mean over S seeds is v (1 + (S - 1) r) / S.
        shared = float((deviations.mean(axis=0) ** 2).mean()) / variance
        correlation = min(1.0, max(0.0, (count * shared - 1) / (count - 1)))
    return Spread(float((differences_SC**2).mean()), correlation)


def half_width(cases: int, discordance: float, *, seeds: int = 1, correlation: float | None = None) -> float:
    """Half the width of the 95 % interval over `cases` of a difference near zero.

    Without a correlation, seeds are assumed not to help. Raises UsageError for numbers out of range.
    """
    return _Z * math.sqrt(_case_variance(discordance, seeds, correlation) / _positive(cases))


def cases_needed(
    difference: float, discordance: float, *, seeds: int = 1, correlation: float | None = None, power: float = 0.8
) -> int:
    """How many cases show a true `difference` (0.02: two points) at 95 % with this power. Raises as `half_width`."""
    if not 0 < difference <= 1 or not 0 < power < 1:
        raise UsageError(f"The difference is {difference} and the power {power}; both lie between 0 and 1.")
    factor = _Z + _NORMAL.inv_cdf(power)
    return math.ceil(factor**2 * _case_variance(discordance, seeds, correlation) / difference**2)


def _case_variance(discordance: float, seeds: int, correlation: float | None) -> float:
    shared = 1.0 if correlation is None else correlation
    if not 0 <= discordance <= 1 or not 0 <= shared <= 1:
        raise UsageError(f"The discordance is {discordance} and the correlation {shared}; both lie between 0 and 1.")
    return discordance * (shared + (1 - shared) / _positive(seeds))


def _positive(count: int) -> int:
    if count < 1:
        raise UsageError(f"The number of cases or seeds is {count}; give 1 or more.")
    return count
