"""Every method against the truth by simulation, and against the formulas that published figures were made with."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tagmoe.errors import UsageError
from tagmoe.intervals import MIN_GROUPS, Bootstrap, Interval, t_interval, wilson
from tagmoe.laboratory.ablation.collection import read_collection
from tagmoe.laboratory.ablation.table import Column, compare

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "ablation"
SAMPLES = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "yes or no": (lambda rng, shape: (rng.random(shape) < 0.3).astype(float), 0.3),
    "skewed": (lambda rng, shape: rng.exponential(size=shape), 1.0),
}


def covered(found: Interval[np.ndarray], truth: float) -> float:
    """Share of the intervals that hold the truth."""
    return float(1 - found.excludes(truth).mean())


# 4,000 repeats: two standard errors are 0.007. With 2.5 and 97.5 % levels, 5 groups cover 0.84, 0.81 and 0.79.
@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("kind", "groups", "least", "most"),
    [
        ("normal", 5, 0.91, 0.96),
        ("normal", 20, 0.94, 0.96),
        ("normal", 100, 0.94, 0.96),
        ("yes or no", 5, 0.82, 0.96),
        ("yes or no", 20, 0.94, 0.97),
        ("yes or no", 100, 0.93, 0.96),
        ("skewed", 5, 0.85, 0.96),
        ("skewed", 20, 0.92, 0.96),
        ("skewed", 100, 0.93, 0.96),
    ],
)
def test_the_bootstrap_covers(kind: str, groups: int, least: float, most: float) -> None:
    draw, truth = SAMPLES[kind]
    found = Bootstrap(2000).mean(draw(np.random.default_rng(1), (groups, 4000)))
    assert least <= covered(found, truth) <= most


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("first", "second"), [(5, 5), (5, 40), (40, 5), (20, 20), (8, 100)])
def test_the_bootstrap_of_a_difference_covers(first: int, second: int) -> None:
    rng = np.random.default_rng(2)
    found = Bootstrap(2000).mean(rng.normal(size=(first, 3000)), minus=1.5 * rng.normal(size=(second, 3000)))
    assert found.n == first
    assert 0.93 <= covered(found, 0.0) <= 0.985


def test_groups_drawn_alike_are_not_paired() -> None:
    """A difference of two copies is zero for sure when paired, and as wide as of any two samples when drawn apart."""
    values = np.random.default_rng(3).normal(size=200)
    apart = Bootstrap().mean(values, minus=values)
    assert apart.value == 0.0
    assert (apart.high - apart.low) / 2 == pytest.approx(1.96 * values.std() * math.sqrt(2 / 200), rel=0.1)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("case_sd", "seed_sd"), [(1.0, 0.0), (1.0, 0.1), (1.0, 0.5), (0.0, 1.0)])
def test_students_t_over_three_seeds_covers(case_sd: float, seed_sd: float) -> None:
    """0.94 to 0.95, and 0.92 where cases and seeds matter alike; two standard errors are 0.011."""
    rng, repeats, held = np.random.default_rng(4), 1500, 0
    for _ in range(repeats):
        values = rng.normal(0, case_sd, (1, 60)) + rng.normal(0, seed_sd, (3, 1)) + rng.normal(0, 0.3, (3, 60))
        found, p = t_interval(values) or pytest.fail("three seeds give an interval")
        assert found.excludes(0) == (p < 0.05)
        held += not found.excludes(0)
    assert 0.91 <= held / repeats <= 0.97


# Newcombe 1998 (Statistics in Medicine 17, p. 857), table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (found.n, found.value) == (n, successes / n)
    assert found.bounds == pytest.approx((low, high), abs=5e-5)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("n", [10, 50, 200])
def test_wilsons_interval_covers_on_average(n: int) -> None:
    """Exactly, over all outcomes, for shares from 0.05 to 0.95."""
    found = [wilson(k, n) for k in range(n + 1)]
    shares = np.linspace(0.05, 0.95, 181)
    held = [stats.binom.pmf([k for k, one in enumerate(found) if not one.excludes(p)], n, p).sum() for p in shares]
    assert np.mean(held) == pytest.approx(0.95, abs=0.008)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_its_share_and_narrows_with_more_cases(pair: tuple[int, int]) -> None:
    found, more = wilson(*pair), wilson(4 * pair[0], 4 * pair[1])
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert more.high - more.low < found.high - found.low


def test_without_cases_a_share_may_be_anything() -> None:
    assert wilson(0, 0) == Interval(0, 0.0, 0.0, 1.0)


def widened(groups: int) -> list[float]:
    """The levels of Hesterberg 2015, by another function of scipy."""
    tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1))
    return [tail, 1 - tail]


def test_published_differences_stay_to_the_last_digit() -> None:
    """Of the ablation in docs/results: over its 1,500 cases, over those that ask for the subject, and over seeds."""
    collection = read_collection(PUBLISHED, arms=["dense", "align"])
    bootstrap = Bootstrap(10_000, keep=2)
    success = compare(collection, "align", "dense", Column("success"), bootstrap)
    subject = compare(collection, "align", "dense", Column("subject"), bootstrap)
    assert success is not None
    assert subject is not None
    value = -0.014666666666666666
    assert success.over_cases == Interval(1500, value, -0.025333349051574867, -0.0040000091201259705)
    assert success.over_seeds == Interval(3, value, -0.026689416169706045, -0.002643917163627288)
    assert success.p == 0.017400768687053324
    assert subject.over_cases is not None
    assert subject.over_cases.bounds == (-0.015316628838596604, -0.002005313637115035)


def test_root_pictures_are_drawn_as_before() -> None:
    """Draws of 64-bit integers row by row, kept in double precision, and the percentiles of a ratio of sums."""
    rng, groups, draws = np.random.default_rng(5), 57, 400
    right_G, rows_G = rng.integers(0, 4, groups).astype(float), rng.integers(3, 9, groups).astype(float)
    random = np.random.default_rng([3, groups])
    drawn_DG = [np.bincount(random.integers(0, groups, groups), minlength=groups) for _ in range(draws)]
    ratios_D = np.array(drawn_DG, dtype=np.float64) @ right_G / (np.array(drawn_DG, dtype=np.float64) @ rows_G)
    bootstrap = Bootstrap(draws, seed=3)
    weights_DG = bootstrap.weights(groups)
    assert (weights_DG == drawn_DG).all()
    value = right_G.sum() / rows_G.sum()
    found = bootstrap.interval(value, (weights_DG @ right_G) / (weights_DG @ rows_G), groups)
    assert found.as_data() == dict(
        zip(("value", "low", "high"), (value, *np.quantile(ratios_D, widened(groups))), strict=True)
    )


@pytest.mark.parametrize("groups", [6, 18, 200])
def test_routing_figures_differ_from_before_by_the_widening(groups: int) -> None:
    """Before: 2.5 and 97.5 % of multinomial draws. At the widened levels those agree, but for the noise of drawing."""
    values = np.random.default_rng(groups).normal(size=(groups, 20, 8))
    counts = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=2000)
    means = (counts / groups @ values.reshape(groups, -1)).reshape(2000, 20, 8)
    found = Bootstrap(2000).mean(values)
    width = found.high - found.low
    assert found.value.shape == width.shape == (20, 8)
    assert found.value == pytest.approx(values.mean(axis=0))
    low, high = np.quantile(means, widened(groups), axis=0)
    assert np.mean(width / (high - low)) == pytest.approx(1, abs=0.03)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    assert np.mean(width / (high - low)) == pytest.approx({6: 1.40, 18: 1.11, 200: 1.01}[groups], abs=0.05)


def test_a_column_is_the_interval_of_its_values_alone() -> None:
    values = np.random.default_rng(6).exponential(size=(30, 2, 3))
    found, alone = Bootstrap().mean(values), Bootstrap().mean(values[:, 1, 2])
    assert (found.low[1, 2], found.high[1, 2]) == pytest.approx(alone.bounds, rel=1e-6)


def test_a_constant_is_its_own_interval_and_a_bound_at_zero_excludes_nothing() -> None:
    assert Bootstrap().mean(np.full(50, 0.1)) == Interval(
        50, pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1)
    )
    assert not Interval(9, 0.1, 0.0, 0.2).excludes(0)
    assert Interval(9, 0.1, 0.05, 0.2).excludes(0)
    assert Interval(9, -0.1, -0.2, -0.05).excludes(0)
    assert not Interval(9, -0.1, -0.2, -0.05).excludes(-0.1)


def test_few_groups_have_a_value_and_no_bounds() -> None:
    """Two groups would cover 0.50, four 0.88, whatever the levels."""
    bootstrap, values = Bootstrap(), np.arange(12.0).reshape(4, 3)
    few = bootstrap.mean(values)
    assert few.value == pytest.approx(values.mean(axis=0))
    assert not few.has_interval
    assert not few.excludes(100).any()
    assert not bootstrap.mean(np.ones((9, 3)), minus=values).has_interval
    assert np.isnan(bootstrap.mean(values[:0]).value).all()
    assert bootstrap.mean(np.ones(MIN_GROUPS)).has_interval
    assert bootstrap.interval(0.5, np.ones(1000), 4) == Interval(4, 0.5, None, None)
    assert not bootstrap.interval(0.5, np.ones(1000), 4).excludes(0)
    assert bootstrap.interval(math.nan, np.ones(1000), 9) == Interval(9, None, None, None)
    assert t_interval(np.ones((1, 7))) is None


def test_a_figure_that_most_draws_lack_has_no_bounds() -> None:
    draws = np.linspace(0, 1, 1000)
    draws[:99] = np.nan
    assert Bootstrap().interval(0.5, draws, 50).has_interval
    draws[:101] = np.nan
    assert not Bootstrap().interval(0.5, draws, 50).has_interval


def test_only_so_many_draws_stay_in_memory() -> None:
    one, two = Bootstrap(100), Bootstrap(100, keep=2)
    for bootstrap, kept in ((one, False), (two, True)):
        first = bootstrap.weights(30)
        assert first.nbytes == 4 * 100 * 30
        assert bootstrap.weights(30) is first
        bootstrap.weights(40)
        assert (bootstrap.weights(30) is first) is kept


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(UsageError, match="100 or more"):
        Bootstrap(99)


def test_scipy_is_imported_when_an_interval_is_made() -> None:
    code = "import sys, tagmoe.intervals; print({'scipy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
