"""Numbers as people read them."""

from __future__ import annotations

import pytest

from tagmoe.report import numbers


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (numbers.percent(0.874), "87 %"),
        (numbers.percent(0.874, 1), "87.4 %"),
        (numbers.percent(None), "-"),
        (numbers.percent_near_ends(0.5), "50 %"),
        (numbers.percent_near_ends(0.9), "90 %"),
        (numbers.percent_near_ends(0.04), "4.0 %"),
        (numbers.percent_near_ends(0.99999), "99.9 %"),
        (numbers.percent_near_ends(1.0), "100 %"),
        (numbers.percent_near_ends(0.0), "0 %"),
        (numbers.percent_near_ends(None), "not defined"),
        (numbers.percent_between(0.19, 0.31, 1), "19.0 % to 31.0 %"),
        (numbers.points(0.034), "+3"),
        (numbers.points(-0.001), "0"),
        (numbers.thousands(12345), "12,345"),
        (numbers.with_interval(0.76, 0.74, 0.785), "0.76 (0.74 to 0.79)"),
        (numbers.with_interval(0.76, 0.755, 0.765), "0.760 (0.755 to 0.765)"),
        (numbers.with_interval(0.76), "0.76"),
        (numbers.with_interval(None), "not defined"),
        (numbers.short_count(9999), "9999"),
        (numbers.short_count(12_400), "12k"),
        (numbers.short_count(3_400_000), "3.4m"),
        (numbers.counted(1, "case"), "1 case"),
        (numbers.counted(1200, "case"), "1,200 cases"),
        (numbers.counted([], "step"), "0 steps"),
        (numbers.named({"torch": "2", "numpy": 1}), "torch 2, numpy 1"),
        (numbers.seconds(119), "119 s"),
        (numbers.seconds(600), "10 min"),
        (numbers.seconds(7200), "2.0 h"),
        (numbers.probability(0.0004), "< 0.001"),
        (numbers.probability(0.05), "0.050"),
    ],
)
def test_numbers_are_written_as_people_read_them(written: str, text: str) -> None:
    assert written == text
