"""Numbers as people read them on pages and in figures."""

from __future__ import annotations

from collections.abc import Mapping

from tagmoe.sentences import counted


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 1 as per cent: 0.874 is "87 %"; None is "-"."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def percent_near_ends(share: float | None) -> str:
    """As per cent, with a digit below 10 and above 90, so that "nearly all" never reads as "all"."""
    if share is None:
        return "not defined"
    value = 100 * share
    if 99.95 <= value < 100:
        return "99.9 %"
    return f"{value:.1f} %" if 0 < value < 9.95 or 90.05 < value < 100 else f"{value:.0f} %"


def percent_between(low: float, high: float, digits: int = 0) -> str:
    """Bounds of a share: "80 % to 91 %"."""
    return f"{percent(low, digits)} to {percent(high, digits)}"


def points(difference: float, digits: int = 0) -> str:
    """A difference of two shares in percentage points, with its sign and without the unit: 0.034 is "+3"."""
    text = f"{100 * difference:+.{digits}f}"
    return text if float(text) else text[1:]


def with_interval(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """0.76 (0.74 to 0.78), with a digit more where two could not tell the bounds apart."""
    if value is None:
        return "not defined"
    if low is None or high is None:
        return f"{value:.2f}"
    digits = 3 if 0 < high - low < 0.02 else 2
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def thousands(number: int) -> str:
    """12345 as 12,345."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """A count that a narrow cell has room for: 9999, 12k, 3.4m."""
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k" if number < 1e6 else f"{number / 1e6:.1f}m"


def named(values: Mapping[str, object]) -> str:
    """Names with what they are, as of versions: "torch 2.13, numpy 2.4"."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def seconds(value: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best; None is "-"."""
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def probability(value: float | None) -> str:
    """A p-value with three digits, never as zero; None is "-"."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FILTERS = {
    function.__name__: function
    for function in (
        percent,
        percent_near_ends,
        with_interval,
        thousands,
        short_count,
        counted,
        named,
        seconds,
        probability,
    )
}
"""What every template may write behind a bar."""
