"""Which difference a study of some size would show, by simulation of people and cases that differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tagmoe.intervals import sign_flip
from tagmoe.study.allocation import allocate
from tagmoe.study.manifest import Manifest

POWER, LEVEL = 0.8, 0.05
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
"""Differences of selection rates that are tried: ours less each of the others, which are alike."""
CASE_SD, PERSON_SD = 0.6, 0.4
"""Of the effects of cases and people on a method's utility: assumptions, which the plan names."""
REPEATS, FLIPS = 120, 999
MOST_SETS = 50_000


def rate_of(gap: float, methods: int) -> float:
    """Our selection rate where it is `gap` above that of each other method."""
    return 1 / methods + gap * (methods - 1) / methods


def simulated(
    case_N: np.ndarray,
    person_N: np.ndarray,
    base_K: np.ndarray,
    random: np.random.Generator,
    *,
    case_sd: float = CASE_SD,
    person_sd: float = PERSON_SD,
) -> np.ndarray:
    """The chosen method of each answer (N,): base utility, effects of cases and people, Gumbel noise."""
    methods = len(base_K)
    utility_NK = base_K + random.gumbel(size=(len(case_N), methods))
    utility_NK += (case_sd * random.standard_normal((case_N.max() + 1, methods)))[case_N]
    utility_NK += (person_sd * random.standard_normal((person_N.max() + 1, methods)))[person_N]
    return np.asarray(utility_NK.argmax(axis=1))


def marginal_rates(base_K: np.ndarray, case_sd: float, person_sd: float, draws: int = 20_000) -> np.ndarray:
    """The selection rates over new cases and people (K,): a Monte Carlo mean."""
    random = np.random.default_rng(0)
    utility_DK = base_K + np.hypot(case_sd, person_sd) * random.standard_normal((draws, len(base_K)))
    share_DK = np.exp(utility_DK - utility_DK.max(axis=1, keepdims=True))
    return np.asarray((share_DK / share_DK.sum(axis=1, keepdims=True)).mean(axis=0))


def base_utilities(gap: float, methods: int, case_sd: float = CASE_SD, person_sd: float = PERSON_SD) -> np.ndarray:
    """Utilities (K,) for which our marginal rate is `gap` above each other's; ours is the first."""
    low, high = 0.0, 10.0
    for _ in range(25):
        middle = (low + high) / 2
        rates = marginal_rates(np.array([middle] + [0.0] * (methods - 1)), case_sd, person_sd, 4000)
        low, high = (middle, high) if rates[0] < rate_of(gap, methods) else (low, middle)
    return np.array([low] + [0.0] * (methods - 1))


def detectable(
    cases: int, people: int, ratings: int, methods: int, tests: int, *, seed: int = 0, repeats: int = REPEATS
) -> dict[str, Any]:
    """{difference: power} on the grid until the power is reached, and the difference that reaches it, interpolated.

    The test is the planned one: random signs over cases, at the level of Holm's first step. None: none on the grid.
    """
    sheets = allocate(cases, methods, people, ratings, check_every=0, repeat_every=0, seed=seed)
    pairs = np.array([(trial.case, person) for person, sheet in enumerate(sheets) for trial in sheet])
    case_N, person_N = pairs[:, 0], pairs[:, 1]
    random = np.random.default_rng([seed, cases, people])
    powers: dict[float, float] = {}
    before, found = (0.0, 0.0), None
    for gap in GRID:
        if rate_of(gap, methods) > 0.95:
            break
        base_K, shown = base_utilities(gap, methods), 0
        for repeat in range(repeats):
            choice_N = simulated(case_N, person_N, base_K, random)
            difference_N = (choice_N == 0).astype(float) - (choice_N == 1)
            difference_C = np.bincount(case_N, difference_N, minlength=cases) / ratings
            shown += sign_flip(difference_C, FLIPS * max(1, tests // 5), repeat) <= LEVEL / tests
        powers[gap] = shown / repeats
        if powers[gap] >= POWER:
            left, below = before
            found = left + (gap - left) * (POWER - below) / (powers[gap] - below)
            break
        before = gap, powers[gap]
    return {"cases": cases, "people": people, "ratings": ratings, "powers": powers, "detectable": found}


def look_around(manifest: Manifest, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The plan's own power, and that of half and twice as many people and cases; say: called with a line for each."""
    methods, tests = len(manifest.names), (len(manifest.names) - 1) * len(manifest.criteria)
    cases, people, each = len(manifest.cases), manifest.people, manifest.sets / manifest.people
    say(f"Which difference shows with a power of {POWER:.0%} ({REPEATS} simulated studies for each line):")
    found = []
    for many_cases, many_people in (
        (cases, people),
        (cases, 2 * people),
        (2 * cases, people),
        (2 * cases, 2 * people),
        (max(2, cases // 2), people),
        (cases, max(1, people // 2)),
    ):
        # A person answers as many pages as planned; the ratings of a case follow from that.
        ratings = min(many_people, max(1, round(each * many_people / many_cases)))
        if many_cases * ratings > MOST_SETS or many_cases * ratings < many_people:
            continue
        one = detectable(many_cases, many_people, ratings, methods, tests, seed=manifest.seed)
        found.append(one)
        shown = "none that was tried" if one["detectable"] is None else f"{100 * one['detectable']:.0f} points"
        say(f"  {many_people:5} people, {many_cases:5} cases, {ratings:4} ratings each: {shown}")
    return {
        "power": POWER,
        "level": LEVEL,
        "tests": tests,
        "case_sd": CASE_SD,
        "person_sd": PERSON_SD,
        **{name: found[0][name] if found else None for name in ("people", "cases", "detectable")},
        "designs": [{**one, "powers": {f"{gap:g}": power for gap, power in one["powers"].items()}} for one in found],
    }
