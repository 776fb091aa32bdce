"""The two-way interval, the tests by signs, Holm and equal chances, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tagmoe.intervals import holm, sign_flip, two_way, uniform


def grouped(rng: np.random.Generator, first: float, second: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers of a full crossing of 30 by 40 groups with these effects, and their groups."""
    one, other = np.divmod(np.arange(1200), 40)
    values = rng.normal(size=1200) + first * rng.normal(size=30)[one] + second * rng.normal(size=40)[other]
    return values, one, other


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_it_covers_whichever_way_answers_hang_together(first: float, second: float) -> None:
    rng = np.random.default_rng(1)
    found = [two_way(*grouped(rng, first, second)) for _ in range(300)]
    held = np.mean([not one.excludes(0.0) for one in found])
    assert 0.91 <= held <= 0.99


def test_with_one_answer_a_group_it_is_students() -> None:
    values = np.random.default_rng(2).normal(size=20)
    found = two_way(values, np.arange(20), np.arange(20))
    wanted = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert found.bounds == pytest.approx(wanted)
    columns = two_way(np.stack([values, -values], axis=1), np.arange(20), np.arange(20))
    assert columns.low[1] == pytest.approx(-wanted[1])


def test_few_groups_get_no_bounds_and_nothing_gets_none() -> None:
    found = two_way(np.ones(8), np.arange(8) % 4, np.arange(8))
    assert (found.value, found.has_interval) == (1.0, False)
    assert not two_way(np.zeros((0, 3)), np.zeros(0), np.zeros(0)).has_interval


def test_random_signs_agree_with_all_signs() -> None:
    values = np.array([0.5, 1.5, -0.2, 2.0, 0.3, 0.9, -0.4, 1.1])
    every = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T @ values
    exact = float((np.abs(every) >= abs(values.sum()) - 1e-9).mean())
    assert sign_flip(values) == pytest.approx(exact, abs=0.01)
    assert sign_flip(np.zeros(5)) == 1.0


def test_random_signs_err_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    p = np.array([sign_flip(rng.normal(size=12), 499, n) for n in range(400)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.09


def test_holm_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_chances() -> None:
    assert uniform([10, 10, 10]) == pytest.approx((0.0, 1.0))
    found = uniform([30, 0, 0])
    assert found is not None
    assert found[1] < 1e-6
    assert uniform([0, 0]) is None
