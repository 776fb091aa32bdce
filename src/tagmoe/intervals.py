"""95 % intervals, one method a question.

- A figure of many groups (cases of an ablation or a recording, root pictures of a store): `Bootstrap` of the groups.
- A mean over a few seeds, for new seeds: `t_interval`, Student's t. A bootstrap of 3 seeds is far too sure of itself:
  simulated, it covers 0.77 to 0.84 where seeds matter; t covers 0.92 to 0.99.
- A share of independent successes: `wilson`.
- A mean of answers that hang together in two ways, by who gave them and what they are about: `two_way`.

Tests that go with them: `sign_flip` for paired differences, `holm` for several at once, `uniform` for counts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Generic, TypeVar

import numpy as np

from tagmoe.errors import UsageError

LEVEL = 0.95
GROUPS = 4096
"""Groups of root pictures: as many pictures have a group of their own, the rest are spread by their digest."""
AT_ONCE = 1 << 18
"""Groups that a bootstrap chooses in one call, 8 bytes each."""
MIN_GROUPS = 5
"""Fewer groups get no bootstrap interval."""
MIN_DEFINED = 0.9
"""Share of the draws in which a figure must be defined for an interval: a kappa needs a tag that somebody gave."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Interval(Generic[Value]):
    """A figure and the bounds of its 95 % interval: numbers, or arrays of one shape.

    n: the cases, root pictures or seeds that it rests on. Numbers that are not defined are None, in arrays NaN: the
    value, or the bounds where there are too few groups.
    """

    n: int
    value: Value
    low: Value
    high: Value

    @property
    def has_interval(self) -> bool:
        """Whether there are bounds."""
        return self.low is not None and not bool(np.isnan(np.asarray(self.low)).all())

    @property
    def bounds(self) -> tuple[Value, Value]:
        """(low, high)."""
        return self.low, self.high

    def excludes(self, value: float) -> Any:
        """Whether all of it lies on one side of `value`: bool, or an array of bool. Missing bounds exclude nothing."""
        low, high = (np.asarray(bound, dtype=np.float64) for bound in self.bounds)
        return (low > value) | (high < value)

    def as_data(self) -> dict[str, Any]:
        """value, low and high, for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class RootGroups:
    """The group of each root picture, the same for all figures of one pass over a store.

    A figure is made of sums over rows. The sums are kept for each root picture, because relatives of one picture err
    together; where there are many pictures, for groups of them. So the memory does not grow with the store, and whole
    groups of independent pictures are as good to draw as the pictures.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, root: str) -> int:
        """0 to GROUPS - 1."""
        found = self._numbers.get(root)
        if found is None:
            if len(self._numbers) == GROUPS:
                return int.from_bytes(hashlib.blake2b(root.encode(), digest_size=8).digest(), "big") % GROUPS
            found = self._numbers[root] = len(self._numbers)
        return found

    def __len__(self) -> int:
        return len(self._numbers)


class Bootstrap:
    """Draws of groups with replacement, the same for every figure, so that equal data give equal intervals.

    The bounds are percentiles of the draws at levels that are widened for few groups (Hesterberg 2015, sec. 4.3).
    keep: for how many numbers of groups the draws stay in memory, 4 bytes for each draw and group.
    Raises UsageError for fewer than 100 draws.
    """

    def __init__(self, draws: int = 1000, seed: int = 0, *, keep: int = 1) -> None:
        if draws < 100:
            raise UsageError(f"The number of draws is {draws}; give 100 or more.")
        self.draws, self.seed = draws, seed
        self._keep = keep
        self._drawn: dict[int, np.ndarray] = {}

    def weights(self, groups: int) -> np.ndarray:
        """How often each group is drawn, (draws, groups) float32: a product with them is all that a sum needs."""
        if groups not in self._drawn:
            random = np.random.default_rng([self.seed, groups])
            drawn_DG = np.empty((self.draws, groups), dtype=np.float32)
            # numpy takes longer to be called than to choose a few groups
            at_once = max(1, AT_ONCE // groups)
            for start in range(0, self.draws, at_once):
                rows_DG = drawn_DG[start : start + at_once]
                chosen_DG = random.integers(0, groups, rows_DG.shape)
                chosen_DG += groups * np.arange(len(rows_DG))[:, None]
                rows_DG[:] = np.bincount(chosen_DG.ravel(), minlength=rows_DG.size).reshape(rows_DG.shape)
            if len(self._drawn) >= self._keep:
                self._drawn.clear()
            self._drawn[groups] = drawn_DG
        return self._drawn[groups]

    def interval(self, value: float, draws_D: np.ndarray, groups: int) -> Interval[float | None]:
        """The interval of any figure from its value in every draw; NaN stands for what is not defined."""
        if not math.isfinite(value):
            return Interval(groups, None, None, None)
        known = draws_D[np.isfinite(draws_D)]
        if groups < MIN_GROUPS or len(known) < MIN_DEFINED * len(draws_D):
            return Interval(groups, float(value), None, None)
        low, high = _percentiles(known, groups)
        return Interval(groups, float(value), float(low), float(high))

    def mean(self, values: np.ndarray, minus: np.ndarray | None = None) -> Interval[Any]:
        """The mean of values (groups, ...) over groups, with the shape of what follows.

        minus: values of other groups, whose mean is subtracted. They are drawn apart, n counts the first alone, and the
        smaller number of groups sets the levels.
        """
        parts = [values] if minus is None else [values, minus]
        shape, fewest = values.shape[1:], min(map(len, parts))
        unknown = np.full(shape, np.nan)[()]
        if fewest == 0:
            return Interval(len(values), unknown, unknown, unknown)
        centres = [part.mean(axis=0) for part in parts]
        value = centres[0] - sum(centres[1:])
        if fewest < MIN_GROUPS:
            return Interval(len(values), value, unknown, unknown)
        # each part has a seed of its own: drawn alike, parts of one size would be paired by chance
        sources = [self, Bootstrap(self.draws, self.seed + 1)]
        deviations = [
            # centred, so that a constant is its own mean in single precision too
            source.weights(len(part)) @ (part - centre).astype(np.float32).reshape(len(part), -1) / len(part)
            for source, part, centre in zip(sources, parts, centres, strict=False)
        ]
        found = _percentiles(deviations[0] - sum(deviations[1:]), fewest)
        bounds = value + found.astype(np.float64).reshape(2, *shape)
        # a bound at zero is zero: the rounding of single precision must not decide that it is on one side
        low, high = np.where(np.abs(bounds) < 1e-6, 0.0, bounds)
        return Interval(len(values), value, low, high)


def t_interval(values_SC: np.ndarray) -> tuple[Interval[float], float] | None:
    """The mean over seeds and cases for new seeds and cases, and p of no difference; None with one seed.

    Mean +- t s with s^2 = var(case means) / C + var(seed means) / S; degrees of freedom after Satterthwaite. Noise of a
    single pair is in both terms, which makes the interval wide rather than narrow where seeds do not matter.
    """
    seeds, cases = values_SC.shape
    if seeds < 2:
        return None
    mean = float(values_SC.mean())
    between_seeds = float(values_SC.mean(axis=1).var(ddof=1)) / seeds
    between_cases = float(values_SC.mean(axis=0).var(ddof=1)) / cases if cases > 1 else 0.0
    variance = between_seeds + between_cases
    if variance == 0:
        return Interval(seeds, mean, mean, mean), 1.0 if mean == 0 else 0.0
    freedom = variance**2 / (between_seeds**2 / (seeds - 1) + between_cases**2 / max(1, cases - 1))
    reach = _student(freedom) * math.sqrt(variance)
    from scipy.special import stdtr

    p = 2 * float(stdtr(freedom, -abs(mean) / math.sqrt(variance)))
    return Interval(seeds, mean, mean - reach, mean + reach), p


def wilson(successes: int, n: int) -> Interval[float]:
    """A share of successes with its Wilson score interval; without cases 0, between 0 and 1."""
    if n == 0:
        return Interval(0, 0.0, 0.0, 1.0)
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(n, successes / n, float(low), float(high))


def two_way(values: np.ndarray, first_N: np.ndarray, second_N: np.ndarray) -> Interval[Any]:
    """The mean of answers (N, ...) for new groups of both kinds, as cases and people; without bounds below 5 of either.

    first_N, second_N: the number of the group of each answer. The variance is that of Cameron, Gelbach and Miller
    (2011, J. Bus. Econ. Stat. 29:238): between the first groups, plus between the second, less between answers, which
    are in both; never less than the larger of the two. Student's t with the smaller number of groups less one.
    """
    count = len(values)
    unknown = np.full(values.shape[1:], np.nan)[()]
    if count == 0:
        return Interval(0, unknown, unknown, unknown)
    mean = values.mean(axis=0)
    rest = (values - mean).reshape(count, -1)
    between, groups = [], []
    for number_N in (first_N, second_N, np.arange(count)):
        _, place_N = np.unique(number_N, return_inverse=True)
        sums = np.zeros((place_N.max() + 1, rest.shape[1]))
        np.add.at(sums, place_N, rest)
        groups.append(len(sums))
        between.append((sums**2).sum(axis=0) * len(sums) / max(1, len(sums) - 1) / count**2)
    fewest = min(groups[:2])
    if fewest < MIN_GROUPS:
        return Interval(count, mean, unknown, unknown)
    variance = np.maximum(between[0] + between[1] - between[2], np.maximum(between[0], between[1]))
    reach = (_student(fewest - 1) * np.sqrt(variance)).reshape(mean.shape)[()]
    return Interval(count, mean, mean - reach, mean + reach)


def sign_flip(differences_G: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """p of paired differences with mean zero: how often random signs give one as far from zero."""
    signs_DG = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (draws, len(differences_G)))
    # Sums of the same numbers in another order differ in their last digits; that must not decide.
    least = abs(differences_G.sum()) - 1e-9
    return float((1 + (np.abs(signs_DG @ differences_G) >= least).sum()) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted after Holm: together they err with at most the level of one."""
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def uniform(counts: Sequence[int]) -> tuple[float, float] | None:
    """Chi-squared and p of equal chances for all of several outcomes; None without counts."""
    if not sum(counts):
        return None
    from scipy.stats import chisquare

    found = chisquare(np.array(counts))
    return float(found.statistic), float(found.pvalue)


@dataclass(frozen=True)
class FTest:
    """A test that arms do not differ at all: F, its two degrees of freedom, p, and the number of arms."""

    value: float
    freedom: tuple[int, int]
    p: float
    arms: int


def f_test(by_arm_and_seed: Sequence[Sequence[float]]) -> FTest | None:
    """F of arms against their interaction with seeds, as every arm has the same seeds; None below two of either."""
    from scipy.stats import f

    values_AS = np.array(by_arm_and_seed, dtype=np.float64)
    if values_AS.ndim != 2 or min(values_AS.shape) < 2:
        return None
    arms, seeds = values_AS.shape
    centred_AS = values_AS - values_AS.mean(axis=0)
    between = seeds * float(centred_AS.mean(axis=1).var(ddof=1))
    rest = float(((centred_AS - centred_AS.mean(axis=1, keepdims=True)) ** 2).sum()) / ((arms - 1) * (seeds - 1))
    if rest == 0:
        return None
    freedom = (arms - 1, (arms - 1) * (seeds - 1))
    return FTest(between / rest, freedom, float(f.sf(between / rest, *freedom)), arms)


def detectable_difference(by_pair_and_seed: Sequence[Sequence[float]], power: float = 0.8) -> float | None:
    """The true difference that a paired t-test at 5 % over these seeds shows with this power; None below two seeds.

    by_pair_and_seed: the differences of several pairs of arms, all over the same seeds; their variance is pooled.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if len({len(values) for values in by_pair_and_seed}) != 1 or len(by_pair_and_seed[0]) < 2:
        return None
    values_PS = np.array(by_pair_and_seed, dtype=np.float64)
    seeds = values_PS.shape[1]
    deviation = math.sqrt(float(values_PS.var(axis=1, ddof=1).mean()))
    limit = float(t.ppf(0.5 + LEVEL / 2, seeds - 1))
    shift = brentq(lambda shift: nct.sf(limit, seeds - 1, shift) - power, 0, 100)
    return float(shift) * deviation / math.sqrt(seeds)


def _percentiles(draws: np.ndarray, groups: int) -> np.ndarray:
    """The lower and the upper bound, (2, ...) of draws (D, ...)."""
    tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * _student(groups - 1))
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def _student(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))
