"""Paired differences of two arms over the same cases and seeds, and how many cases it takes to see one.

Two intervals answer two questions. Over cases: would these trained models differ on other cases? (A bootstrap of cases;
all seeds of a case go together, because they share its difficulty.) Over seeds and cases: would the arms differ when
trained again? With 3 seeds a bootstrap of seeds is far too sure of itself (simulated, it covers 0.77 to 0.84 where
seeds matter), so this one is Student's t on the variance between cases plus that between seeds (0.93 to 0.99).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from tagmoe.errors import UsageError

LEVEL = 0.95
MIN_CASES = 5
Verdict = Literal["resolved", "resolved for these seeds", "not resolved"]
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """The bounds of a 95 % interval."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and cases: of an arm, or of the difference of two arms.

    by_seed: the mean of each seed, in the order of `seeds`. cases: how many have the quantity, 0 for what a run has
    once. over_cases: for these seeds (None for what a run has once, and below 5 cases). over_seeds: for new seeds and
    cases (None with one seed); p: of no difference, by the same reasoning.
    """

    value: float
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    cases: int
    over_cases: Interval | None = None
    over_seeds: Interval | None = None
    p: float | None = None

    @property
    def agreeing(self) -> int:
        """How many seeds have the sign of the mean."""
        return sum(value * self.value > 0 for value in self.by_seed)

    @property
    def verdict(self) -> Verdict:
        """Of a difference: whether its sign is known, and for whom.

        Seeds that disagree on the sign are never resolved, however many cases they were judged on.
        """
        if self.agreeing < len(self.seeds):
            return "not resolved"
        over_seeds = self.over_seeds is not None and self.over_seeds.excludes_zero()
        over_cases = self.over_cases is None or self.over_cases.excludes_zero()
        if over_seeds and over_cases:
            return "resolved"
        return "resolved for these seeds" if self.over_cases is not None and over_cases else "not resolved"


class CaseBootstrap:
    """Draws of cases with replacement, the same for every comparison, so that equal data give equal intervals."""

    def __init__(self, draws: int = 10_000, seed: int = 0) -> None:
        if draws < 100:
            raise UsageError(f"The number of draws is {draws}; give 100 or more.")
        self.draws, self.seed = draws, seed
        self._weights: dict[int, np.ndarray] = {}

    def estimate(self, values_SC: np.ndarray, seeds: Sequence[int]) -> Estimate | None:
        """The mean of values by seed and case; NaN where a case does not ask for the quantity, in every seed alike.

        None when no case asks for it. Raises UsageError for other shapes, or a case that only some seeds have.
        """
        if values_SC.ndim != 2 or not seeds or len(values_SC) != len(seeds):
            raise UsageError(
                f"The values have the shape {values_SC.shape}; give one row for each of {len(seeds)} seeds."
            )
        absent_SC = np.isnan(values_SC)
        if (absent_SC != absent_SC[0]).any():
            raise UsageError("A case has the quantity in one seed and not in another; give the same cases for all.")
        values_SC = values_SC[:, ~absent_SC[0]].astype(np.float64)
        count = values_SC.shape[1]
        if count == 0:
            return None
        over_seeds, p = _over_seeds_and_cases(values_SC)
        return Estimate(
            value=float(values_SC.mean()),
            seeds=tuple(seeds),
            by_seed=tuple(values_SC.mean(axis=1).tolist()),
            cases=count,
            over_cases=self._over_cases(values_SC.mean(axis=0)) if count >= MIN_CASES else None,
            over_seeds=over_seeds,
            p=p,
        )

    def _over_cases(self, means_C: np.ndarray) -> Interval:
        """Percentiles of the mean over drawn cases, at levels widened for few cases (Hesterberg 2015, sec. 4.3)."""
        count = len(means_C)
        if count not in self._weights:
            self._weights[count] = _draw(count, self.draws, self.seed)
        # centred, so that a constant is its own mean in single precision too
        centre = float(means_C.mean())
        means = self._weights[count] @ (means_C - centre).astype(np.float32) / count
        tail = _NORMAL.cdf(-math.sqrt(count / (count - 1)) * _student(count - 1))
        low, high = (_snap(centre + float(bound)) for bound in np.quantile(means, [tail, 1 - tail]))
        return Interval(low, high)


def seed_estimate(values: Sequence[float], seeds: Sequence[int]) -> Estimate:
    """The mean of what a run has once (a loss, a share), or of its differences between arms, with t over seeds."""
    over_seeds, p = _over_seeds_and_cases(np.array(values, dtype=np.float64)[:, None])
    mean = math.fsum(values) / len(values)
    return Estimate(mean, tuple(seeds), tuple(map(float, values)), 0, over_seeds=over_seeds, p=p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values: together they name a false difference in at most 5 % of such tables."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Spread:
    """How two arms' verdicts differ, from which the number of cases follows.

    discordance: the mean square of a pair's difference; of yes-or-no verdicts the share judged differently.
    correlation: of a case's differences between two seeds, 0 where further seeds help as much as further cases, 1 where
    they do not help; None with one seed.
    """

    discordance: float
    correlation: float | None


def spread(differences_SC: np.ndarray) -> Spread:
    """The spread of paired differences by seed and case."""
    deviations = differences_SC - differences_SC.mean(axis=1, keepdims=True)
    count, variance = len(differences_SC), float((deviations**2).mean())
    correlation = None
    if count > 1 and variance > 0:
        # the variance of a case's mean over S seeds is v (1 + (S - 1) r) / S
        shared = float((deviations.mean(axis=0) ** 2).mean()) / variance
        correlation = min(1.0, max(0.0, (count * shared - 1) / (count - 1)))
    return Spread(float((differences_SC**2).mean()), correlation)


def half_width(cases: int, discordance: float, *, seeds: int = 1, correlation: float | None = None) -> float:
    """Half the 95 % interval over `cases` of a difference near zero.

    Without a correlation seeds are taken not to help. Raises UsageError for numbers that cannot be.
    """
    return _quantile(LEVEL) * math.sqrt(_case_variance(discordance, seeds, correlation) / _positive(cases))


def cases_needed(
    difference: float, discordance: float, *, seeds: int = 1, correlation: float | None = None, power: float = 0.8
) -> int:
    """How many cases show a true `difference` (0.02: two points) at 95 % with this power; errors as above."""
    if not 0 < difference <= 1 or not 0 < power < 1:
        raise UsageError(f"The difference is {difference} and the power {power}; both lie between 0 and 1.")
    factor = _quantile(LEVEL) + _NORMAL.inv_cdf(power)
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


def _over_seeds_and_cases(values_SC: np.ndarray) -> tuple[Interval | None, float | None]:
    """Mean +- t s, s^2 = var(case means) / C + var(seed means) / S, degrees of freedom after Satterthwaite.

    Noise of a single pair is in both terms, which makes the interval wide rather than narrow where seeds do not matter.
    """
    seeds, cases = values_SC.shape
    if seeds < 2:
        return None, None
    mean = float(values_SC.mean())
    between_seeds = float(values_SC.mean(axis=1).var(ddof=1)) / seeds
    between_cases = float(values_SC.mean(axis=0).var(ddof=1)) / cases if cases > 1 else 0.0
    variance = between_seeds + between_cases
    if variance == 0:
        return Interval(mean, mean), 1.0 if mean == 0 else 0.0
    freedom = variance**2 / (between_seeds**2 / (seeds - 1) + between_cases**2 / max(1, cases - 1))
    reach = _student(freedom) * math.sqrt(variance)
    from scipy import special  # here, as SciPy takes a second to import

    p = 2 * float(special.stdtr(freedom, -abs(mean) / math.sqrt(variance)))
    return Interval(mean - reach, mean + reach), p


def _draw(count: int, draws: int, seed: int) -> np.ndarray:
    """How often each case is drawn, (draws, count): counts, because a product with them is all that a mean needs."""
    indices = np.random.default_rng([seed, count]).integers(0, count, size=(draws, count), dtype=np.int32)
    weights = np.empty((draws, count), dtype=np.float32)
    for row, drawn in zip(weights, indices, strict=True):
        row[:] = np.bincount(drawn, minlength=count)
    return weights


def _snap(bound: float) -> float:
    """A bound at zero is zero: the rounding of single precision must not decide that it is on one side."""
    return 0.0 if abs(bound) < 1e-6 else bound


def _quantile(level: float) -> float:
    return _NORMAL.inv_cdf(0.5 + level / 2)


def _student(freedom: float) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))
