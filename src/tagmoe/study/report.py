"""The report of a study: one offline page, its numbers as JSON and CSV, and every answer as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tagmoe.errors import MissingError
from tagmoe.files.atomic import write_whole
from tagmoe.intervals import Interval
from tagmoe.report.colours import series_colour
from tagmoe.report.csv_text import csv_text
from tagmoe.report.numbers import percent, points
from tagmoe.report.pages import Tile, page_environment
from tagmoe.report.svg import INK, as_svg, grid, inline, legend_below, subplots
from tagmoe.study.analysis import Analysis, CriterionResult
from tagmoe.study.checklist import checklist

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
FILES = (PAGE, "report.json", "rates.csv", "differences.csv", "answers.csv", "figure.svg")
SIMULATED = "SIMULATED: no person gave these answers. They show that the tools work, and say nothing about the methods."
COVERAGE = (
    "By simulation (65 people, 50 cases, 7 methods, four strengths of differences between cases and people), the "
    "two-way interval held the true rate in 0.93 to 0.96 of 350 answer sets (0.928 where it did worst, so just below "
    "0.93) and in 0.94 to 0.95 of 3,250; the case-clustered one in 0.86 to 0.95 and 0.69 to 0.93, Wilson's in 0.79 to "
    "0.94 and 0.35 to 0.73."
)
"""Measured by tests/study/test_coverage.py; 2,000 and 1,000 intervals, two standard errors about 0.01."""


@dataclass(frozen=True)
class NotDrawn:
    """Why there is no figure."""

    reason: str


def write_report(analysis: Analysis, folder: Path, *, about: Mapping[str, str], reframed: Mapping[str, int]) -> Any:
    """Write all files into an existing folder; returns what report.json holds. reframed: as the key of the build has
    it, outputs by method that did not have the shape of the page's frame."""
    data = as_data(analysis) | dict(about)
    write_whole(folder / "report.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "rates.csv", rates_csv(analysis))
    write_whole(folder / "differences.csv", differences_csv(analysis))
    write_whole(folder / "answers.csv", answers_csv(analysis))
    figure = _figure(analysis)
    if isinstance(figure, str):
        write_whole(folder / "figure.svg", figure)
    write_whole(folder / PAGE, render(analysis, figure, about=about, reframed=reframed))
    return data


def as_data(analysis: Analysis) -> dict[str, Any]:
    """All figures, for JSON."""
    collected, manifest = analysis.collected, analysis.manifest
    return {
        "simulated": analysis.simulated,
        **({"warning": SIMULATED, "panel": collected.kept.about.get("panel")} if analysis.simulated else {}),
        "study": manifest.digest,
        "methods": manifest.names,
        "ours": manifest.ours,
        "sets": analysis.sets,
        "sets_with_excluded": analysis.sets_of_all,
        "planned_sets": manifest.sets,
        "people": analysis.people,
        "cases": analysis.cases,
        "consented": collected.consented,
        "finished": collected.finished,
        "withdrawn": collected.withdrawn,
        "excluded": [{"person": one.person, "reason": one.reason} for one in collected.excluded],
        "checks": {"failed": sum(a for a, _ in collected.failed.values()), "seen": _seen(analysis)},
        "interval": manifest.interval,
        "draws": analysis.draws,
        "seed": analysis.seed,
        "criteria": {one.id: _criterion(one) for one in analysis.criteria},
    }


def _seen(analysis: Analysis) -> int:
    return sum(seen for _, seen in analysis.collected.failed.values())


def _criterion(result: CriterionResult) -> dict[str, Any]:
    test = result.position_test
    return {
        "rates": {
            rate.method: {
                "chosen": rate.chosen,
                **rate.two_way.as_data(),
                "by_case": rate.by_case.as_data(),
                "naive": rate.naive.as_data(),
                "bradley_terry": rate.strength,
                "with_excluded": rate.everybody,
                **({} if rate.expected is None else {"expected": rate.expected}),
            }
            for rate in result.rates
        },
        "differences": {
            one.method: {**one.value.as_data(), "p": one.p, "p_holm": one.p_holm} for one in result.differences
        },
        "krippendorff_alpha": result.alpha,
        "pairwise_agreement": result.agreement,
        "repeats": {"same": result.repeated[0], "of": result.repeated[1]},
        "positions": {"chosen": list(result.positions), "chi2": test and test[0], "p": test and test[1]},
        "by_stratum": {name: {"sets": n, "rates": list(rates)} for name, (n, rates) in result.by_stratum.items()},
    }


def _mark(analysis: Analysis) -> str:
    return "simulated" if analysis.simulated else "real"


def rates_csv(analysis: Analysis) -> str:
    """A row for each criterion and method."""
    head = ["answers", "criterion", "method", "chosen", "sets", "rate", "low", "high", "case_low", "case_high"]
    rows: list[list[Any]] = [[*head, "wilson_low", "wilson_high", "bradley_terry", "rate_with_excluded"]]
    for one in analysis.criteria:
        for rate in one.rates:
            rows.append([_mark(analysis), one.id, rate.method, rate.chosen, analysis.sets, rate.two_way.value])
            rows[-1] += [*rate.two_way.bounds, *rate.by_case.bounds, *rate.naive.bounds, rate.strength, rate.everybody]
    return csv_text(rows)


def differences_csv(analysis: Analysis) -> str:
    """A row for each criterion and method but ours."""
    rows: list[list[Any]] = [["answers", "criterion", "ours", "method", "difference", "low", "high", "p", "p_holm"]]
    for one in analysis.criteria:
        for found in one.differences:
            rows.append([_mark(analysis), one.id, analysis.manifest.ours, found.method, found.value.value])
            rows[-1] += [*found.value.bounds, found.p, found.p_holm]
    return csv_text(rows)


def answers_csv(analysis: Analysis) -> str:
    """A row for each answer: person, page, what was shown, what was chosen. It holds checks and repeats too."""
    manifest = analysis.manifest
    out = {one.person for one in analysis.collected.excluded}
    head = ["answers", "person", "page", "kind", "case", "stratum", "criterion", "position", "method", "order"]
    rows: list[list[Any]] = [[*head, "shown_ms", "zooms", "changes", "language", "excluded"]]
    for page in analysis.collected.pages:
        case = manifest.cases[page.trial.case]
        order = " ".join(manifest.names[method] for method in page.trial.order)
        for name, method in page.methods.items():
            given = page.given
            rows.append([_mark(analysis), page.person, given.number, page.trial.kind, case.id, case.stratum, name])
            rows[-1] += [given.choices[name], manifest.names[method], order, given.shown_ms, given.zooms]
            rows[-1] += [given.changes, given.language, int(page.person in out)]
    return csv_text(rows)


def _figure(analysis: Analysis) -> str | NotDrawn:
    if not analysis.sets:
        return NotDrawn("there are no answers that count")
    try:
        return selection_rates(analysis)
    except MissingError as error:
        return NotDrawn(str(error))


@as_svg
def selection_rates(analysis: Analysis) -> Figure:
    """Selection rates by criterion with their intervals, in the form of the paper's Fig. 7. Raises MissingError."""
    names, criteria = analysis.manifest.names, analysis.criteria
    figure, (axes,) = subplots(max(6.0, 1.2 + 0.28 * len(names) * len(criteria)), 3.2)
    width = 0.84 / len(names)
    drawn = {}
    for k, name in enumerate(names):
        rates = [one.rates[k].two_way for one in criteria]
        at = [place + (k - (len(names) - 1) / 2) * width for place in range(len(criteria))]
        heights = [100 * (rate.value or 0.0) for rate in rates]
        drawn[name] = axes.bar(at, heights, width * 0.92, color=series_colour(k))
        for x, rate in zip(at, rates, strict=True):
            if rate.low is not None and rate.high is not None:
                axes.plot([x, x], [100 * max(0.0, rate.low), 100 * min(1.0, rate.high)], color=INK, lw=1.1)
    axes.axhline(100 / len(names), color=INK, lw=0.8, ls=(0, (4, 3)))
    texts = next(iter(analysis.manifest.languages.values())).criteria
    axes.set_xticks(range(len(criteria)), [texts[one.id].name for one in criteria])
    axes.set_ylabel("selected as best, %")
    axes.set_ylim(0, None)
    if analysis.simulated:
        axes.set_title("SIMULATED")
    grid(axes)
    legend_below(figure, drawn)
    return figure


def shown(interval: Interval[float | None]) -> str:
    """A share with its bounds, in per cent; bounds beyond 0 and 100 are cut."""
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{percent(interval.value, 1)} (no interval: too few)"
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return f"{percent(interval.value, 1)} ({100 * low:.1f} to {100 * high:.1f})"


def shown_points(interval: Interval[float | None]) -> str:
    """A difference in percentage points with its bounds."""
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{points(interval.value, 1)} (no interval: too few)"
    return f"{points(interval.value, 1)} ({points(interval.low, 1)} to {points(interval.high, 1)})"


def render(analysis: Analysis, figure: str | NotDrawn, *, about: Mapping[str, str], reframed: Mapping[str, int]) -> str:
    """The page. All text is escaped: names and instructions come from outside."""
    environment = page_environment("tagmoe.study")
    environment.globals |= {"shown": shown, "shown_points": shown_points}
    manifest = analysis.manifest
    return environment.get_template("report.html.j2").render(
        a=analysis,
        m=manifest,
        texts=next(iter(manifest.languages.values())),
        tiles=_tiles(analysis),
        figure=figure if isinstance(figure, NotDrawn) else Markup(inline(figure, "rates")),
        simulated=SIMULATED,
        panel=analysis.collected.kept.about.get("panel", {}),
        recovered=_recovered(analysis),
        checklist=checklist(analysis, reframed),
        checks=(sum(a for a, _ in analysis.collected.failed.values()), _seen(analysis)),
        seconds=_seconds(analysis),
        coverage=COVERAGE,
        about=about,
    )


def _tiles(analysis: Analysis) -> list[Tile]:
    collected = analysis.collected
    tiles = [
        Tile(f"{analysis.sets:,}", "answer sets", f"of {analysis.manifest.sets:,} planned"),
        Tile(f"{analysis.people:,}", "people", f"{collected.consented:,} consented, {collected.finished:,} finished"),
        Tile(f"{analysis.cases:,}", "cases", f"of {len({case.stratum for case in analysis.manifest.cases}):,} strata"),
        Tile(f"{len(collected.excluded):,}", "excluded", f"{collected.withdrawn:,} withdrew"),
    ]
    if analysis.sets and analysis.criteria:
        last = analysis.criteria[-1]
        best = max(last.rates, key=lambda rate: rate.chosen)
        tiles.append(Tile(percent(best.two_way.value), f"chose {best.method}", last.id))
    return tiles


def _recovered(analysis: Analysis) -> tuple[int, int] | None:
    """(known rates that lie within their interval, known rates) of simulated answers."""
    rates = [rate for one in analysis.criteria for rate in one.rates if rate.expected is not None]
    if not rates:
        return None
    inside = [not rate.two_way.excludes(rate.expected or 0.0) for rate in rates if rate.two_way.has_interval]
    return sum(map(bool, inside)), len(rates)


def _seconds(analysis: Analysis) -> float | None:
    """The median time of a page that counts."""
    times = [page.given.shown_ms / 1000 for page in analysis.collected.pages if page.trial.kind == "trial"]
    return median(times) if times else None
