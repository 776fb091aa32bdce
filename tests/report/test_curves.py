"""Curves of a page: few bins whatever the length, and lines, areas and axes as SVG."""

from __future__ import annotations

import math
import re

import pytest

from tagmoe.report.curves import HEIGHT, MOST_BINS, WIDTH, Curve, Line, drawn_lines, drawn_shares


def curve(*values: float) -> Curve:
    made = Curve()
    for place, value in enumerate(values):
        made.add(place, value)
    return made


def labels(markup: str) -> list[str]:
    return re.findall(r'<span style="top:[\d.]+%">([^<]*)</span>', markup)


def test_a_long_curve_keeps_all_its_values_in_few_bins() -> None:
    values = [math.sin(k) for k in range(3001)]
    made = curve(*values)
    assert MOST_BINS / 2 <= len(made.bins) <= MOST_BINS
    assert len(made) == 3001
    assert sum(one.total for one in made.bins) == pytest.approx(sum(values))
    assert min(one.low for one in made.bins) == min(values)
    assert max(one.high for one in made.bins) == max(values)
    assert [one.first for one in made.bins] == sorted(one.first for one in made.bins)
    assert made.last == pytest.approx(made.bins[-1].mean)


def test_what_is_not_finite_is_left_out_and_nothing_is_no_figure() -> None:
    made = curve(math.nan, math.inf)
    assert (len(made), made.last) == (0, None)
    assert drawn_lines([Line(made)], str) == ""
    assert drawn_shares([], []) == drawn_shares([made], ["red"]) == ""


def test_few_points_are_dots_and_many_have_a_band() -> None:
    few = drawn_lines([Line(curve(1, 2, 3)), Line(Curve())], "{:g}".format)
    assert few.count('class="dots"') == few.count('class="line"') == 1
    assert 'class="band"' not in few
    many = drawn_lines([Line(curve(*range(2000)), colour="red")], "{:g}".format)
    assert '<polygon class="band"' in many
    assert 'class="dots"' not in many
    assert "<span>0</span><span>1,999</span>" in many


def test_the_axis_is_logarithmic_only_where_values_span_much() -> None:
    wide = drawn_lines([Line(curve(0.001, 1.0, 1000.0))], "{:g}".format, log=True)
    assert '<span class="log">log</span>' in wide
    assert labels(wide)[0] == "0.001"
    narrow = drawn_lines([Line(curve(11.0, 400.0))], "{:g}".format, log=True)
    assert [float(label) for label in labels(narrow)] == pytest.approx([11, math.sqrt(4400), 400], rel=1e-3)
    assert "log" not in drawn_lines([Line(curve(1.0, 2.0))], "{:g}".format, log=True)


def test_one_point_and_equal_values_have_an_axis() -> None:
    one = drawn_lines([Line(curve(5.0))], "{:g}".format)
    assert f"M{WIDTH / 2:.1f} {HEIGHT / 2:.1f}" in one
    from_zero = labels(drawn_lines([Line(curve(4.0, 4.0, 8.0))], "{:g}".format, zero=True))
    assert from_zero[0] == "0"
    assert len(from_zero) >= 3


def test_shares_lie_on_one_another_up_to_the_top() -> None:
    made = drawn_shares([curve(0.25, 0.5), curve(0.75, 0.5)], ["red", "blue"])
    points = re.findall(r'<polygon points="([^"]+)" style="fill:(\w+)"', made)
    assert [colour for _, colour in points] == ["red", "blue"]
    first = [tuple(map(float, point.split(","))) for point in points[0][0].split()]
    assert first[:2] == [(0.0, 150.0), (WIDTH, 150.0)]
    assert labels(made) == ["0 %", "50 %", "100 %"]
    single = drawn_shares([curve(1.0)], ["red"])
    assert 'points="0.0,0.0 1000.0,0.0 1000.0,200.0 0.0,200.0"' in single
