"""Curves of any length in little memory, and as SVG that follows the width of its column; without matplotlib.

A page is rewritten while a run trains, so a curve must cost the same after 10 steps and after 100,000. Lines keep
their width and text its size at every width of the page, because only the coordinates stretch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from markupsafe import Markup

from tagmoe.report.printable import printable

MOST_BINS = 256
"""Bins of a curve. When they are full, two become one."""
WIDTH, HEIGHT = 1000.0, 200.0
LOG_RATIO = 30.0
"""Where the values of a curve span more than this ratio, its axis may be logarithmic."""


@dataclass
class Bin:
    """Neighbouring points of a curve. first, last: their places. n, total, low, high: of their values."""

    first: float
    last: float
    n: int
    total: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self.total / self.n

    @property
    def middle(self) -> float:
        """The place at which the bin is drawn."""
        return (self.first + self.last) / 2

    def joined(self, other: Bin) -> Bin:
        """This bin and the next one as one."""
        return Bin(
            self.first, other.last, self.n + other.n, self.total + other.total,
            min(self.low, other.low), max(self.high, other.high),
        )  # fmt: skip


class Curve:
    """Points (place, value) in at most `MOST_BINS` bins of as many points each: minimum, mean and maximum."""

    def __init__(self) -> None:
        self.bins: list[Bin] = []
        self._width = 1

    def __len__(self) -> int:
        return sum(one.n for one in self.bins)

    def add(self, place: float, value: float) -> None:
        """Add a point after all others. What is not finite is left out."""
        if not math.isfinite(value):
            return
        point = Bin(place, place, 1, value, value, value)
        if self.bins and self.bins[-1].n < self._width:
            self.bins[-1] = self.bins[-1].joined(point)
            return
        if len(self.bins) >= MOST_BINS:
            self._width *= 2
            pairs = [self.bins[i : i + 2] for i in range(0, len(self.bins), 2)]
            self.bins = [pair[0].joined(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
        self.bins.append(point)

    @property
    def last(self) -> float | None:
        """Mean of the newest bin; None without points."""
        return self.bins[-1].mean if self.bins else None


class Line(NamedTuple):
    """A curve in a figure. colour: CSS; band: whether its minima and maxima are drawn behind it."""

    curve: Curve
    name: str = ""
    colour: str = "var(--accent)"
    band: bool = True


Write = Callable[[float], str]


def whole(place: float) -> str:
    """A place that is a step."""
    return f"{place:,.0f}"


def drawn_lines(
    lines: Sequence[Line], number: Write, *, zero: bool = False, log: bool = False, place: Write = whole
) -> Markup:
    """Curves over one another. number, place: write values and places of the axes. zero: the values' axis starts at 0.
    log: it is logarithmic where the values span more than `LOG_RATIO`."""
    bins = [one for line in lines for one in line.curve.bins]
    if not bins:
        return Markup("")
    means = [one.mean for one in bins]
    least, most = min(one.low for one in bins), max(one.high for one in bins)
    is_log = log and least > 0 and most > LOG_RATIO * least
    # A band far outside of the means (a single spike) would flatten the line: the axis gives it a quarter at most.
    spread = max(means) - min(means) or abs(max(means)) or 1.0
    low = 0.0 if zero else max(least, min(means) - spread / 4)
    high = min(most, max(means) + spread / 4)
    if is_log:
        low, high = least, most
    scale = _Scale(min(one.first for one in bins), max(one.last for one in bins), low, high, is_log)
    parts = [_grid(scale)]
    for line in lines:
        parts += _band(line, scale) if line.band else []
        parts.append(_path(line, scale))
    return _figure("".join(parts), scale, number, place)


def drawn_shares(curves: Sequence[Curve], colours: Sequence[str]) -> Markup:
    """Shares that sum to 1, as areas on one another; curve i has the colour i. All curves have the same places."""
    if not curves or not curves[0].bins:
        return Markup("")
    bins = curves[0].bins
    scale = _Scale(bins[0].first, bins[-1].last, 0.0, 1.0, False)
    floor = [0.0] * len(bins)
    parts = []
    for curve, colour in zip(curves, colours, strict=True):
        ceiling = [below + one.mean for below, one in zip(floor, curve.bins, strict=True)]
        above = _steps(bins, ceiling, scale)
        below = _steps(bins, floor, scale)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*above, *reversed(below)])
        parts.append(f'<polygon points="{points}" style="fill:{escape(colour)}"/>')
        floor = ceiling
    return _figure("".join(parts), scale, lambda share: f"{100 * share:.0f} %", whole, ticks=(0.0, 0.5, 1.0))


class _Scale:
    def __init__(self, first: float, last: float, low: float, high: float, is_log: bool) -> None:
        if high <= low:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self.first, self.last, self.low, self.high, self.is_log = first, last, low, high, is_log

    def x(self, place: float) -> float:
        if self.last <= self.first:
            return WIDTH / 2
        return WIDTH * (place - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        low, high, value = (map(math.log, (self.low, self.high, max(value, self.low)))) if self.is_log else (
            self.low, self.high, value,
        )  # fmt: skip
        return HEIGHT * (1 - min(1.0, max(0.0, (value - low) / (high - low))))

    def ticks(self) -> list[float]:
        if self.is_log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            decades = [10.0**power for power in powers]
            if len(decades) < 2:
                decades = [self.low, math.sqrt(self.low * self.high), self.high]
            return decades[:: max(1, -(-len(decades) // 4))]
        power = math.floor(math.log10(self.high - self.low))
        found: list[float] = []
        for step in (factor * 10.0**exponent for exponent in (power, power - 1) for factor in (5, 2, 1)):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            found = [step * k for k in range(first, last + 1)]
            if len(found) >= 3:
                break
        return found


def _grid(scale: _Scale) -> str:
    lines = (f"M0 {scale.y(tick):.1f}H{WIDTH:.0f}" for tick in scale.ticks())
    return f'<path class="grid" d="{"".join(lines)}"/>'


def _path(line: Line, scale: _Scale) -> str:
    points = [(scale.x(one.middle), scale.y(one.mean)) for one in line.curve.bins]
    if not points:
        return ""
    style = f'style="stroke:{escape(line.colour)}"'
    path = f'<path class="line" {style} d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'
    if len(points) <= 20:
        # A line of no length has round ends, which are dots at every width of the page.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        path += f'<path class="dots" {style} d="{dots}"/>'
    return path


def _band(line: Line, scale: _Scale) -> list[str]:
    bins = line.curve.bins
    if all(one.n == 1 for one in bins):
        return []
    above = [(scale.x(one.middle), scale.y(one.high)) for one in bins]
    below = [(scale.x(one.middle), scale.y(one.low)) for one in bins]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*above, *reversed(below)])
    return [f'<polygon class="band" points="{points}" style="fill:{escape(line.colour)}"/>']


def _steps(bins: Sequence[Bin], values: Sequence[float], scale: _Scale) -> list[tuple[float, float]]:
    """A bin reaches to where the next one begins, so that a few of them fill the figure, too."""
    if len(bins) == 1:
        return [(0.0, scale.y(values[0])), (WIDTH, scale.y(values[0]))]
    ends = [*(scale.x(one.first) for one in bins[1:]), WIDTH]
    points = []
    start = 0.0
    for value, end in zip(values, ends, strict=True):
        points += [(start, scale.y(value)), (end, scale.y(value))]
        start = end
    return points


def _figure(content: str, scale: _Scale, number: Write, place: Write, ticks: Sequence[float] | None = None) -> Markup:
    names = "".join(
        f'<span style="top:{100 * scale.y(tick) / HEIGHT:.1f}%">{escape(printable(number(tick)))}</span>'
        for tick in (scale.ticks() if ticks is None else ticks)
    )
    log = '<span class="log">log</span>' if scale.is_log else ""
    return Markup(
        f'<div class="curve"><div class="ys">{names}</div><svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" '
        f'preserveAspectRatio="none" aria-hidden="true">{content}</svg>{log}'
        f'<div class="xs"><span>{place(scale.first)}</span><span>{place(scale.last)}</span></div></div>'
    )
