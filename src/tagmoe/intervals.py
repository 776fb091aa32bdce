"""Intervals for figures of a store: a bootstrap of root pictures, because relatives of one picture err together.

A figure is made of sums over rows. The sums are kept for each root picture, or for groups of them where there are
many, and drawn with replacement: the memory does not grow with the store, and whole groups of independent pictures are
as good to draw as the pictures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tagmoe.errors import UsageError

LEVEL = 0.95
GROUPS = 4096
"""Groups of root pictures: as many pictures have a group of their own, the rest are spread by their digest."""
MIN_GROUPS = 5
MIN_DEFINED = 0.9
"""Share of the draws in which a figure must be defined for an interval: a kappa needs a tag that somebody gave."""


@dataclass(frozen=True)
class Measure:
    """A figure with its 95 % interval; None where it is not defined, or rests on too little."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether there are bounds."""
        return self.low is not None

    def as_data(self) -> Mapping[str, Any]:
        """For JSON."""
        return vars(self)


class RootGroups:
    """The group of each root picture, the same for all figures of one pass over a store."""

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


class RootBootstrap:
    """Draws of groups with replacement, the same for every figure, so that equal data give equal intervals."""

    def __init__(self, draws: int = 1000, seed: int = 0) -> None:
        if draws < 100:
            raise UsageError(f"The number of draws is {draws}; give 100 or more.")
        self.draws, self.seed = draws, seed
        self._drawn: dict[int, np.ndarray] = {}

    def weights(self, groups: int) -> np.ndarray:
        """How often each group is drawn, (draws, groups) float64."""
        if groups not in self._drawn:
            random = np.random.default_rng([self.seed, groups])
            drawn_DG = np.empty((self.draws, groups))
            for row in drawn_DG:
                row[:] = np.bincount(random.integers(0, groups, groups), minlength=groups)
            self._drawn = {groups: drawn_DG}
        return self._drawn[groups]

    def measure(self, value: float, draws_D: np.ndarray, groups: int) -> Measure:
        """The figure with percentiles of its draws, at levels widened for few groups (Hesterberg 2015, sec. 4.3).

        NaN stands for what is not defined.
        """
        if not math.isfinite(value):
            return Measure(None)
        known = draws_D[np.isfinite(draws_D)]
        if groups < MIN_GROUPS or len(known) < MIN_DEFINED * len(draws_D):
            return Measure(float(value))
        tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * _student(groups - 1))
        low, high = np.quantile(known, [tail, 1 - tail])
        return Measure(float(value), float(low), float(high))


def _student(freedom: float) -> float:
    from scipy import special  # here, as SciPy takes a second to import

    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))
