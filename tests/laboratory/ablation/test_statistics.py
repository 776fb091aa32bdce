"""Paired differences against closed forms, and the coverage of both intervals where the truth is known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from tagmoe.errors import UsageError
from tagmoe.intervals import Bootstrap, Interval, detectable_difference, f_test
from tagmoe.laboratory.ablation.paired import (
    Estimate,
    cases_needed,
    estimate,
    half_width,
    holm,
    seed_estimate,
    spread,
)

SEEDS = (0, 1, 2)


def estimated(values: np.ndarray, seeds: tuple[int, ...] = SEEDS) -> Estimate:
    found = estimate(np.asarray(values, dtype=float), seeds, Bootstrap(10_000))
    assert found is not None
    return found


def paired(
    rng: np.random.Generator, cases: int, *, gain: float = 0.2, case_sd: float = 1.5, seed_sd: float = 0.0
) -> tuple[np.ndarray, float, float]:
    """Differences of two arms' verdicts (S, C); their true mean for these seeds, and for any."""
    difficulty, many = rng.normal(0, case_sd, cases), np.random.default_rng(0).normal(0, case_sd, 20_000)
    luck = rng.normal(0, seed_sd, (2, len(SEEDS), 1))

    def share(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    verdicts = [rng.random((len(SEEDS), cases)) < share(difficulty + g + luck[i]) for i, g in enumerate((gain, 0.0))]
    here = share(many + gain + luck[0]).mean() - share(many + luck[1]).mean()
    # luck moves both arms alike on average, by a little less than half its variance at these sizes: the same for both
    anywhere = share(many + gain).mean() - share(many).mean()
    return verdicts[0].astype(float) - verdicts[1], float(here), float(anywhere)


@pytest.mark.slow
def test_the_interval_is_the_closed_form_for_many_cases() -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=(1, 2000))
    found = estimated(values, (0,))
    reach = NormalDist().inv_cdf(0.975) * values.std(ddof=1) / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.over_cases is not None
    assert found.over_cases.bounds == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.05 * reach)
    assert found.over_seeds is None
    assert found.p is None


def test_the_seeds_of_a_case_go_together() -> None:
    """Three copies of a seed are no more evidence than one; drawn apart, they would narrow the interval by root 3."""
    values = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=(1, 300))
    once, thrice = estimated(values, (0,)), estimated(np.repeat(values, 3, axis=0))
    assert thrice.over_cases is not None
    assert once.over_cases is not None
    assert thrice.over_cases.bounds == pytest.approx(once.over_cases.bounds, abs=1e-9)


def test_over_seeds_is_the_t_test_when_cases_do_not_differ() -> None:
    """scipy's paired t test of the seeds' means is the other source."""
    from scipy.stats import ttest_1samp

    means = [0.01, 0.04, 0.03]
    found = estimated(np.repeat(np.array(means)[:, None], 50, axis=1))
    test = ttest_1samp(means, 0)
    assert found.over_seeds is not None
    assert found.over_seeds.bounds == pytest.approx(tuple(test.confidence_interval(0.95)), abs=1e-6)
    assert found.p == pytest.approx(test.pvalue, abs=1e-6)
    once = seed_estimate(means, SEEDS)
    assert once.over_seeds is not None
    assert once.over_seeds.bounds == pytest.approx(found.over_seeds.bounds, abs=1e-6)
    assert (once.cases, once.over_cases) == (0, None)


def test_swapping_the_arms_mirrors_everything() -> None:
    values = paired(np.random.default_rng(3), 400)[0]
    one, two = estimated(values), estimated(-values)
    assert one.over_cases is not None
    assert two.over_cases is not None
    assert two.over_cases.bounds == pytest.approx((-one.over_cases.high, -one.over_cases.low), abs=0.003)
    assert two.value == pytest.approx(-one.value)
    assert two.p == pytest.approx(one.p)
    assert two.verdict == one.verdict


def test_cases_that_do_not_ask_are_left_out() -> None:
    values = paired(np.random.default_rng(4), 200)[0]
    holes = np.full((3, 500), np.nan)
    holes[:, ::5], holes[:, 1::5] = values[:, :100], values[:, 100:]
    found, whole = estimated(holes), estimated(np.stack([values[:, :100], values[:, 100:]], axis=2).reshape(3, 200))
    assert found == whole
    assert estimate(np.full((3, 4), np.nan), SEEDS, Bootstrap(100)) is None


def test_the_same_data_give_the_same_interval_and_few_cases_give_none() -> None:
    values = paired(np.random.default_rng(5), 100)[0]
    assert estimated(values) == estimated(values)
    assert estimated(values[:, :4]).over_cases is None
    assert estimated(np.zeros((3, 50))).verdict == "not resolved"
    assert estimated(np.zeros((3, 50))).over_cases == Interval(50, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("by_seed", "over_cases", "over_seeds", "verdict"),
    [
        ((0.1, 0.2, 0.3), (0.1, 0.3), (0.05, 0.35), "resolved"),
        ((-0.1, -0.2, -0.3), (-0.3, -0.1), (-0.35, -0.05), "resolved"),
        ((0.1, 0.2, 0.3), (0.1, 0.3), (-0.05, 0.45), "resolved for these seeds"),
        ((0.1, 0.2, 0.3), (0.1, 0.3), None, "resolved for these seeds"),
        ((0.1, 0.2, 0.3), (-0.01, 0.4), (-0.1, 0.5), "not resolved"),
        ((0.1, 0.2, 0.3), (-0.01, 0.4), (0.01, 0.39), "not resolved"),
        ((-0.1, 0.3, 0.4), (0.1, 0.3), (0.05, 0.35), "not resolved"),
        ((0.1, 0.2, 0.3), None, (0.05, 0.35), "resolved"),
        ((0.1, 0.2, 0.3), None, (-0.05, 0.45), "not resolved"),
        ((0.1, 0.2, 0.3), None, None, "not resolved"),
    ],
)
def test_what_is_resolved(
    by_seed: tuple[float, ...],
    over_cases: tuple[float, float] | None,
    over_seeds: tuple[float, float] | None,
    verdict: str,
) -> None:
    value = sum(by_seed) / 3
    intervals = [None if bounds is None else Interval(100, value, *bounds) for bounds in (over_cases, over_seeds)]
    assert Estimate(value, SEEDS, by_seed, 100, *intervals).verdict == verdict


@pytest.mark.slow
@pytest.mark.parametrize(("cases", "seed_sd"), [(600, 0.0), (600, 0.1), (600, 0.3), (24, 0.1)])
def test_the_intervals_cover(cases: int, seed_sd: float) -> None:
    """95 % of the intervals hold the truth; 1,000 repeats tell 0.95 from 0.93 and 0.97 (two standard errors 0.014)."""
    rng, bootstrap, repeats = np.random.default_rng(6), Bootstrap(1000), 1000
    here = anywhere = 0
    for _ in range(repeats):
        values, for_these, for_any = paired(rng, cases, seed_sd=seed_sd)
        found = estimate(values, SEEDS, bootstrap)
        assert found is not None
        assert found.over_cases is not None
        assert found.over_seeds is not None
        here += found.over_cases.low <= for_these <= found.over_cases.high
        anywhere += found.over_seeds.low <= for_any <= found.over_seeds.high
    assert 0.93 <= here / repeats <= 0.97
    assert anywhere / repeats >= 0.91


@pytest.mark.slow
def test_coverage_at_a_glance() -> None:
    """The slow test at 200 repeats: far bounds, that a wrong variance or a case drawn by seed still breaks."""
    rng, bootstrap = np.random.default_rng(7), Bootstrap(500)
    held = 0
    for _ in range(200):
        values, truth, _ = paired(rng, 200, seed_sd=0.3)
        # the case's own difference is shared by the seeds, so that drawing pairs apart would be too sure
        shared = rng.normal(0, 0.5, 200)
        found = estimate(values + shared, SEEDS, bootstrap)
        assert found is not None
        assert found.over_cases is not None
        held += found.over_cases.low <= truth <= found.over_cases.high
    assert 0.89 <= held / 200 <= 0.99


@pytest.mark.slow
def test_the_number_of_cases_shows_the_difference() -> None:
    """Simulated with that many cases, a true difference of two points is found in about 80 % of tables."""
    gain, repeats = 0.02, 400
    cases = cases_needed(gain, 0.2, seeds=1)
    rng, bootstrap = np.random.default_rng(8), Bootstrap(300)
    shares = [(0.2 - gain) / 2, 0.8, (0.2 + gain) / 2]
    found = sum(
        estimate(rng.choice([-1.0, 0.0, 1.0], p=shares, size=(1, cases)), (0,), bootstrap).over_cases.low > 0  # type: ignore[union-attr]
        for _ in range(repeats)
    )
    assert 0.73 <= found / repeats <= 0.87


@pytest.mark.slow
def test_half_width_is_that_of_the_interval() -> None:
    values = paired(np.random.default_rng(9), 3000, gain=0.0, seed_sd=0.0)[0]
    found, scatter = estimated(values), spread(values)
    assert found.over_cases is not None
    half = (found.over_cases.high - found.over_cases.low) / 2
    expected = half_width(3000, scatter.discordance, seeds=3, correlation=scatter.correlation)
    assert expected == pytest.approx(half, rel=0.04)


def test_the_spread_tells_seeds_that_help_from_seeds_that_do_not() -> None:
    rng = np.random.default_rng(10)
    independent = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(3, 4000))
    assert spread(independent).discordance == pytest.approx(0.2, abs=0.02)
    assert spread(independent).correlation == pytest.approx(0.0, abs=0.03)
    assert spread(np.repeat(independent[:1], 3, axis=0)).correlation == pytest.approx(1.0)
    assert spread(independent[:1]).correlation is None


def test_more_seeds_more_discordance_and_smaller_differences_cost_cases_as_they_should() -> None:
    assert half_width(400, 0.2) == pytest.approx(2 * half_width(1600, 0.2))
    assert half_width(400, 0.2, seeds=4, correlation=0.0) == pytest.approx(half_width(400, 0.05))
    assert half_width(400, 0.2, seeds=4, correlation=1.0) == half_width(400, 0.2, seeds=4) == half_width(400, 0.2)
    assert cases_needed(0.01, 0.2) == pytest.approx(4 * cases_needed(0.02, 0.2), abs=4)
    assert cases_needed(0.02, 0.2, power=0.5) == math.ceil(0.2 * (NormalDist().inv_cdf(0.975) / 0.02) ** 2)


def test_a_bound_at_zero_excludes_nothing() -> None:
    """Of 3 cases in 1000 that differ, every 20th draw has none: the lower percentile is zero, up to rounding."""
    values = np.zeros((3, 1000))
    values[0, :3] = 1.0
    bounds = estimated(values).over_cases
    assert bounds is not None
    assert bounds.low == 0.0
    assert not bounds.excludes(0)


def test_holm_against_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Bootstrap(10),
        lambda: estimate(np.zeros(3), SEEDS, Bootstrap(100)),
        lambda: estimate(np.zeros((2, 5)), SEEDS, Bootstrap(100)),
        lambda: estimate(np.zeros((0, 5)), (), Bootstrap(100)),
        lambda: estimate(np.array([[1.0, 2.0], [1.0, np.nan]]), (0, 1), Bootstrap(100)),
        lambda: cases_needed(0.0, 0.2),
        lambda: cases_needed(0.02, 0.2, power=1.0),
        lambda: cases_needed(0.02, 1.2),
        lambda: cases_needed(0.02, 0.2, seeds=0),
        lambda: half_width(0, 0.2),
        lambda: half_width(10, 0.2, seeds=2, correlation=-0.1),
    ],
)
def test_what_cannot_be_is_refused(mistake: object) -> None:
    with pytest.raises(UsageError, match=r"give|between"):
        mistake()  # type: ignore[operator]


def test_f_of_arms_and_seeds_against_the_sums_of_squares() -> None:
    """Two-way analysis of variance without replication, from its textbook sums."""
    rng = np.random.default_rng(0)
    values_AS = rng.normal(size=(5, 3)) + np.array([3.0, -2.0, 0.5])
    found = f_test(values_AS)
    grand, by_arm, by_seed = values_AS.mean(), values_AS.mean(axis=1), values_AS.mean(axis=0)
    total = ((values_AS - grand) ** 2).sum()
    arms, seeds = 3 * ((by_arm - grand) ** 2).sum(), 5 * ((by_seed - grand) ** 2).sum()
    assert found is not None
    assert found.freedom == (4, 8)
    assert found.value == pytest.approx((arms / 4) / ((total - arms - seeds) / 8))
    assert found.p == pytest.approx(scipy.stats.f.sf(found.value, 4, 8))
    assert f_test([[1.0, 2.0]]) is None
    assert f_test([[1.0], [2.0]]) is None


def test_the_detectable_difference_is_found_in_eight_of_ten_experiments() -> None:
    rng = np.random.default_rng(1)
    pairs = rng.normal(scale=0.01, size=(400, 4))
    found = detectable_difference(pairs)
    assert found is not None
    drawn = rng.normal(found, pairs.var(axis=1, ddof=1).mean() ** 0.5, size=(20_000, 4))
    significant = scipy.stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert significant.mean() == pytest.approx(0.8, abs=0.01)
    assert detectable_difference([[0.1], [0.2]]) is None
    assert detectable_difference([]) is None
