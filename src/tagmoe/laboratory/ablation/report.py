"""The report of an ablation: one offline HTML page, its figures as SVG, and the numbers as JSON and CSV."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tagmoe.laboratory.ablation.figures import DRAWN, figures
from tagmoe.laboratory.ablation.paired import Estimate, cases_needed, half_width
from tagmoe.laboratory.ablation.results import Result
from tagmoe.laboratory.ablation.table import (
    PAPER_ARMS,
    PAPER_METRICS,
    PAPER_STEPS,
    PAPER_TABLE,
    SUCCESS,
    Claim,
    Column,
    Summary,
    interval,
    phrase,
)
from tagmoe.report.csv_text import csv_text
from tagmoe.report.pages import Tile, page_environment
from tagmoe.report.svg import inline
from tagmoe.sentences import counted

FILES = ("report.html", "ablation.json", "runs.csv", "differences.csv", "*.svg")
SOUGHT = 0.02
"""The number of cases is chosen to resolve this difference in success: two points."""
OUTCOMES = (
    "held",
    "held for these seeds",
    "not resolved",
    "opposite for these seeds",
    "opposite",
    "missing",
)


def write_report(summary: Summary, folder: Path) -> dict[str, Any]:
    """Write report.html, ablation.json, runs.csv, differences.csv and the SVG figures; returns the numbers."""
    drawn = figures(summary)
    data = numbers(summary)
    texts = {
        "report.html": render(summary, drawn),
        "ablation.json": json.dumps(data, indent=1, allow_nan=False) + "\n",
        "runs.csv": _csv(run_rows(summary)),
        "differences.csv": _csv(difference_rows(summary)),
        **{f"{name}.svg": svg + "\n" for name, svg in drawn.items()},
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return data


def numbers(summary: Summary) -> dict[str, Any]:
    """The whole summary as plain data."""
    collection = summary.collection
    return {
        "baseline": summary.baseline,
        "arms": [asdict(row, dict_factory=_as_data) for row in summary.rows],
        "missing": list(collection.missing),
        "claims": [
            {
                "text": claim.text,
                "source": claim.source,
                "first": claim.first,
                "second": claim.second,
                "quantity": claim.column.name,
                "metrics": list(claim.metrics),
                "outcome": claim.outcome,
                "p_adjusted": claim.p_adjusted,
                "difference": claim.estimate and asdict(claim.estimate, dict_factory=_as_data),
            }
            for claim in summary.claims
        ],
        "resolution": {arm: resolution(summary, arm) for arm in summary.spreads},
        "comparisons": summary.comparisons,
        "arms_alike": {
            name: test and asdict(test)
            for name, test in (("all", summary.all_arms), ("not resolved", summary.like_arms))
        },
        "detectable": summary.detectable,
        "draws": summary.draws,
        "cases": len(collection.cases.tasks),
        "case_settings": collection.cases.model_dump(include={"per_task", "seed", "steps", "cfg"}),
        "common": collection.first.common,
        "versions": collection.first.versions,
    }


def resolution(summary: Summary, arm: str) -> dict[str, Any]:
    """The smallest difference in success to the baseline that these cases resolve, and the cases for two points."""
    spread = summary.spreads[arm]
    seeds = len(summary.collection.common_seeds(arm, summary.baseline))
    options: dict[str, Any] = {"seeds": seeds, "correlation": spread.correlation}
    return {
        "discordance": spread.discordance,
        **options,
        "half_width": half_width(len(summary.collection.cases.tasks), spread.discordance, **options),
        "cases_for_two_points": cases_needed(SOUGHT, spread.discordance, **options),
    }


def run_rows(summary: Summary) -> list[dict[str, Any]]:
    """One row for each run: its results and its cost."""
    rows = []
    for row in summary.rows:
        for place, (seed, result) in enumerate(summary.collection.arms[row.arm].items()):
            given = {name: mean.by_seed[place] if mean else None for name, mean in row.means.items()}
            rows.append({"arm": row.arm, "seed": seed, **given, **_cost(result)})
    return rows


def difference_rows(summary: Summary) -> list[dict[str, Any]]:
    """One row for each difference to the baseline: every column, and success by task."""
    rows = []
    for row in summary.rows:
        found = [(name, "", estimate) for name, estimate in row.differences.items()]
        found += [("success", task, estimate) for task, estimate in row.tasks.items()]
        rows += [
            {"arm": row.arm, "baseline": summary.baseline, "quantity": name, "task": task, **_flat(estimate)}
            for name, task, estimate in found
        ]
    return rows


def paper_rows(summary: Summary) -> list[dict[str, Any]]:
    """Table 4 by metric: the paper's values, and the outcome of each of its two steps here."""
    rows = []
    for place, metric in enumerate(PAPER_METRICS):
        steps = [claim for step in PAPER_STEPS for claim in summary.claims if _belongs(claim, step, metric)]
        values = [PAPER_TABLE[arm][place] for arm in PAPER_ARMS]
        rows.append({"metric": metric, "quantity": steps[0].column.name, "values": values, "steps": steps})
    return rows


def outcomes(summary: Summary) -> dict[str, list[Claim]]:
    """The paper's claims by outcome. Outcomes without a claim are left out."""
    grouped = {name: [claim for claim in summary.claims if claim.outcome == name] for name in OUTCOMES}
    return {name: claims for name, claims in grouped.items() if claims}


def render(summary: Summary, drawn: dict[str, str]) -> str:
    """The HTML page. All text but the figures, which are made here, is escaped."""
    environment = page_environment("tagmoe.laboratory.ablation")
    environment.filters["tone"] = _tone
    found = facts(summary)
    return environment.get_template("report.html.j2").render(
        **found,
        tiles=[
            Tile(str(len(claims)), name, f"of {counted(summary.claims, 'claim')}")
            for name, claims in found["outcomes"].items()
        ],
        figures={name: _embedded(name, drawn.get(name)) for name in DRAWN},
        step_heads=[f"{second} to {first}, here" for first, second in PAPER_STEPS],
    )


def facts(summary: Summary) -> dict[str, Any]:
    """The variables of a page's template, for HTML or Markdown, with functions that format numbers."""
    results = [result for row in summary.rows for result in summary.collection.arms[row.arm].values()]
    return {
        "s": summary,
        "success": SUCCESS,
        "cases": len(summary.collection.cases.tasks),
        "results": results,
        "machines": Counter(result.machine for result in results),
        "outcomes": outcomes(summary),
        "paper": paper_rows(summary),
        "paper_steps": PAPER_STEPS,
        "paper_arms": PAPER_ARMS,
        "resolution": {arm: resolution(summary, arm) for arm in summary.spreads},
        "second_names": list(dict.fromkeys(name for result in results for name in result.seconds)),
        "phrase": phrase,
        "power": power_of(summary),
        "interval": interval,
    }


def power_of(summary: Summary) -> str:
    """What the seeds can show, in sentences: the difference that they detect, and whether the arms differ at all."""
    sentences = []
    if summary.detectable is not None:
        sentences.append(
            f"With these seeds a true difference of {100 * summary.detectable:.1f} points of success shows in 8 of 10 "
            "such experiments (paired t-test at 5 %); a smaller one shows less often."
        )
    for test, whose in (
        (summary.all_arms, "all arms"),
        (summary.like_arms, "the arms that are not resolved from the baseline"),
    ):
        if test is not None and not (whose != "all arms" and test == summary.all_arms):
            sentences.append(
                f"Do {whose} ({test.arms}) differ at all? F({test.freedom[0]}, {test.freedom[1]}) = {test.value:.2f}, "
                f"p = {test.p:.2g}."
            )
    return " ".join(sentences)


def _embedded(name: str, svg: str | None) -> Markup | dict[str, str]:
    # The SVG is matplotlib's own, which escapes the text in it.
    return {"reason": f"No result has the data for this figure ({name})."} if svg is None else Markup(inline(svg, name))


def _tone(estimate: Estimate | None, column: Column) -> str:
    """CSS class of a difference: better, worse, or neither as long as it is not resolved."""
    if estimate is None or estimate.verdict == "not resolved":
        return "soft"
    return "ok" if estimate.value * column.better > 0 else "no"


def _belongs(claim: Claim, step: tuple[str, str], metric: str) -> bool:
    return (claim.first, claim.second) == step and metric in claim.metrics


def _cost(result: Result) -> dict[str, Any]:
    return {
        "samples": result.samples,
        **{f"parameters {name}": value for name, value in result.parameters.items()},
        **{f"seconds {name}": value for name, value in result.seconds.items()},
        "machine": result.machine,
        "date": result.date,
    }


def _as_data(pairs: list[tuple[str, Any]]) -> Any:
    """For `asdict`: an interval is its bounds, because its value stands beside it."""
    data = dict(pairs)
    return (data["low"], data["high"]) if "low" in data else data


def _flat(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"verdict": "missing"}
    over_cases, over_seeds = (
        (None, None) if found is None else found.bounds for found in (estimate.over_cases, estimate.over_seeds)
    )
    return {
        "difference": estimate.value,
        "cases": estimate.cases,
        "seeds": " ".join(map(str, estimate.seeds)),
        "by_seed": " ".join(f"{value:.6g}" for value in estimate.by_seed),
        "cases_low": over_cases[0],
        "cases_high": over_cases[1],
        "seeds_low": over_seeds[0],
        "seeds_high": over_seeds[1],
        "p": estimate.p,
        "verdict": estimate.verdict,
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text([names, *([row.get(name) for name in names] for row in rows)])
