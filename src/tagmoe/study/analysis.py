"""The figures of a study: selection rates with intervals, tests against ours, agreement, position bias."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagmoe.extras import require
from tagmoe.intervals import Bootstrap, Interval, holm, sign_flip, two_way, uniform, wilson
from tagmoe.study.answers import Answered, Collected, Table
from tagmoe.study.manifest import Manifest

DRAWS = 2000
FLIPS = 10_000
REGULARIZATION = 0.01
"""Of Bradley-Terry: without it a method that nobody chose would be infinitely bad."""


@dataclass(frozen=True)
class Rate:
    """How often a method was chosen. chosen: answers. two_way: the main interval. by_case: case-clustered bootstrap.
    naive: Wilson, as if answers were independent. strength: Bradley-Terry, a share. everybody: without exclusions."""

    method: str
    chosen: int
    two_way: Interval[float | None]
    by_case: Interval[float | None]
    naive: Interval[float]
    strength: float | None
    everybody: float | None
    expected: float | None = None


@dataclass(frozen=True)
class Difference:
    """Ours less another method, in shares. p: of random signs of the cases' differences. p_holm: after all tests."""

    method: str
    value: Interval[float | None]
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class CriterionResult:
    """All figures of a criterion. alpha: Krippendorff's, nominal. agreement: pairs of answers about a case that agree.
    repeated: (same method again, repeats). positions: how often each was chosen; position_test: (chi-squared, p)."""

    id: str
    rates: tuple[Rate, ...]
    differences: tuple[Difference, ...]
    alpha: float | None
    agreement: float | None
    repeated: tuple[int, int]
    positions: tuple[int, ...]
    position_test: tuple[float, float] | None
    by_stratum: dict[str, tuple[int, tuple[float, ...]]]


@dataclass(frozen=True)
class Analysis:
    """The result of a study. sets: answer sets that count; sets_of_all: with those of excluded people."""

    manifest: Manifest
    collected: Collected
    criteria: tuple[CriterionResult, ...]
    sets: int
    sets_of_all: int
    people: int
    cases: int
    draws: int
    seed: int

    @property
    def simulated(self) -> bool:
        """Whether the answers are of simulated people."""
        return self.collected.kept.simulated


def analyze(manifest: Manifest, collected: Collected, *, draws: int = DRAWS, seed: int = 0) -> Analysis:
    """Analyze the answers of the user study (paper sec. 4.6). Raises MissingError without choix, krippendorff."""
    require("study", purpose="The analysis of a study")
    table, everybody = collected.table(manifest), collected.table(manifest, everybody=True)
    bootstrap = Bootstrap(draws, seed)
    raw = [
        _criterion(manifest, collected, number, table, everybody, bootstrap, seed)
        for number in range(len(manifest.criteria))
    ]
    tests = [(one, place) for one in range(len(raw)) for place, found in enumerate(raw[one][1]) if found.p is not None]
    adjusted = holm([raw[one][1][place].p or 0.0 for one, place in tests])
    for (one, place), p in zip(tests, adjusted, strict=True):
        old = raw[one][1][place]
        raw[one][1][place] = Difference(old.method, old.value, old.p, p)
    return Analysis(
        manifest,
        collected,
        tuple(_with(result, differences) for result, differences in raw),
        len(table),
        len(everybody),
        len(np.unique(table.person_N)),
        len(np.unique(table.case_N)),
        draws,
        seed,
    )


def _with(result: CriterionResult, differences: list[Difference]) -> CriterionResult:
    from dataclasses import replace

    return replace(result, differences=tuple(differences))


def _criterion(
    manifest: Manifest,
    collected: Collected,
    number: int,
    table: Table,
    everybody: Table,
    bootstrap: Bootstrap,
    seed: int,
) -> tuple[CriterionResult, list[Difference]]:
    names, name = manifest.names, manifest.criteria[number]
    count = len(names)
    choice_N = table.choice_NQ[:, number]
    is_NK = (choice_N[:, None] == np.arange(count)).astype(np.float64)
    chosen_K = is_NK.sum(axis=0).astype(int)
    both = two_way(is_NK, table.case_N, table.person_N)
    case_C, row_N = np.unique(table.case_N, return_inverse=True)
    sums_CK, sizes_C = np.zeros((len(case_C), count)), np.bincount(row_N, minlength=len(case_C)).astype(np.float64)
    np.add.at(sums_CK, row_N, is_NK)
    weights_DC = bootstrap.weights(len(case_C)).astype(np.float64) if len(case_C) else np.zeros((0, 0))
    with np.errstate(invalid="ignore"):
        draws_DK = (weights_DC @ sums_CK) / (weights_DC @ sizes_C)[:, None] if len(case_C) else np.zeros((0, count))
    strength_K = strengths(manifest, choice_N)
    all_N = everybody.choice_NQ[:, number]
    expected = collected.kept.about.get("expected", {}) if collected.kept.simulated else {}
    rates = tuple(
        Rate(
            method,
            int(chosen_K[k]),
            _one(both, k),
            bootstrap.interval(float(is_NK[:, k].mean()) if len(table) else float("nan"), draws_DK[:, k], len(case_C)),
            wilson(int(chosen_K[k]), len(table)),
            None if strength_K is None else float(strength_K[k]),
            float((all_N == k).mean()) if len(everybody) else None,
            expected.get(method),
        )
        for k, method in enumerate(names)
    )
    ours = names.index(manifest.ours)
    differences = []
    for k, method in enumerate(names):
        if k == ours:
            continue
        found = two_way(is_NK[:, ours] - is_NK[:, k], table.case_N, table.person_N)
        p = sign_flip((sums_CK[:, ours] - sums_CK[:, k]) / sizes_C, FLIPS, seed) if len(case_C) > 1 else None
        differences.append(Difference(method, _plain(found), p, None))
    position_N = table.position_NQ[:, number]
    positions = tuple(np.bincount(position_N, minlength=count).tolist())
    result = CriterionResult(
        name,
        rates,
        (),
        alpha_of(table, number, count),
        agreement_of(sums_CK, sizes_C),
        repeats_of(collected, name),
        positions,
        uniform(positions),
        _by_stratum(manifest, table, is_NK),
    )
    return result, differences


def strengths(manifest: Manifest, choice_N: np.ndarray) -> np.ndarray | None:
    """Bradley-Terry strengths as shares of 1, from each answer's one winner among all; None without answers."""
    if not len(choice_N):
        return None
    import choix

    every = range(len(manifest.names))
    data = [(int(winner), tuple(k for k in every if k != winner)) for winner in choice_N]
    parameters = choix.ilsr_top1(len(every), data, alpha=REGULARIZATION)
    exponents = np.exp(parameters - np.max(parameters))
    return np.asarray(exponents / exponents.sum())


def alpha_of(table: Table, number: int, methods: int) -> float | None:
    """Krippendorff's alpha of the chosen methods: cases are the units, people the coders. None where not defined."""
    import krippendorff

    case_C, row_N = np.unique(table.case_N, return_inverse=True)
    counts_CK = np.zeros((len(case_C), methods), dtype=np.int64)
    np.add.at(counts_CK, (row_N, table.choice_NQ[:, number]), 1)
    # Units with one answer pair with nothing, and one answer everywhere leaves nothing to disagree about.
    if not (counts_CK.sum(axis=1) > 1).any() or (counts_CK.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts_CK, level_of_measurement="nominal"))


def agreement_of(sums_CK: np.ndarray, sizes_C: np.ndarray) -> float | None:
    """The share of pairs of answers about one case that name the same method; None without pairs."""
    pairs = float((sizes_C * (sizes_C - 1)).sum())
    return float((sums_CK * (sums_CK - 1)).sum()) / pairs if pairs else None


def repeats_of(collected: Collected, name: str) -> tuple[int, int]:
    """(repeats with the same method again, repeats), of people who count."""
    out = {one.person for one in collected.excluded}
    by_page: dict[tuple[int, int], Answered] = {(page.person, page.given.number): page for page in collected.pages}
    again = [page for page in collected.pages if page.trial.kind == "repeat" and page.person not in out]
    same = 0
    for page in again:
        assert page.trial.repeats is not None
        same += by_page[page.person, page.trial.repeats].methods[name] == page.methods[name]
    return same, len(again)


def _by_stratum(manifest: Manifest, table: Table, is_NK: np.ndarray) -> dict[str, tuple[int, tuple[float, ...]]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, case in enumerate(table.case_N.tolist()):
        rows[manifest.cases[case].stratum].append(row)
    return {name: (len(rows[name]), tuple(is_NK[rows[name]].mean(axis=0).tolist())) for name in sorted(rows)}


def _one(found: Interval[Any], k: int) -> Interval[float | None]:
    return _plain(Interval(found.n, found.value[k], found.low[k], found.high[k]))


def _plain(found: Interval[Any]) -> Interval[float | None]:
    """Numbers of numpy as Python's, NaN as None."""
    value, low, high = (None if np.isnan(one) else float(one) for one in (found.value, found.low, found.high))
    return Interval(found.n, value, low, high)
