"""The agreement of two annotators for machines: one JSON object, and CSV tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tagmoe.annotation.quality.agree import AgreeReport, Side
from tagmoe.annotation.quality.agree_page import render
from tagmoe.annotation.quality.agreement import Agreement
from tagmoe.data.store.store import Store
from tagmoe.intervals import Interval
from tagmoe.report.csv_text import csv_text
from tagmoe.tags import TAG_NAMES

PAGE, DATA = "agree.html", "agree.json"
FILES = (PAGE, DATA, "*.csv")
FIGURES = ("alpha", "alpha_jaccard", "exact", "jaccard", "micro_f1", "macro_f1", "inverse")
"""Names of the figures that a run can be held to: alpha is that with MASI, inverse that of the side under test."""

DIGITS = 6
"""Significant digits in the tables."""

Rows = list[Sequence[Any]]


def write_report(store: Store, report: AgreeReport, folder: Path) -> None:
    """Page, JSON and tables into an existing folder."""
    tables = csv_tables(report)
    for name, text in tables.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(data_of(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(render(store, report, [DATA, *tables]), encoding="utf-8")


def figures_of(report: AgreeReport) -> dict[str, Interval[float | None]]:
    """The figures of FIGURES that there are."""
    agreement = report.agreement
    tested = report.b if agreement.gold == "a" else report.a
    found = {
        "alpha": agreement.alpha_masi,
        "alpha_jaccard": agreement.alpha_jaccard,
        "exact": agreement.exact,
        "jaccard": agreement.jaccard,
        "micro_f1": agreement.micro_f1,
        "macro_f1": agreement.macro_f1,
        "inverse": None if tested.inverse is None or not tested.inverse.pairs else tested.inverse.consistent,
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def data_of(report: AgreeReport) -> dict[str, Any]:
    """All numbers as JSON values; what is not defined is null."""
    agreement = report.agreement
    return {
        "store": report.uri.rsplit("/", 1)[-1],
        "rows": report.rows,
        "compared": agreement.rows,
        "agree_by_definition": report.by_definition,
        "root_groups": agreement.roots,
        "draws": agreement.draws,
        "seed": agreement.seed,
        "gold": agreement.gold,
        "figures": {name: measure.as_data() for name, measure in figures_of(report).items()},
        "also": report.also,
        "alphas_of_all": {name: _measure(measure) for name, measure in report.alphas_of_all.items()},
        "precision": _measure(agreement.micro_precision),
        "recall": _measure(agreement.micro_recall),
        "tiers": {tier: measure.as_data() for tier, measure in agreement.tiers.items()},
        "tags": {tag.tag: _plain(vars(tag)) for tag in agreement.tags},
        "a": _side(report.a),
        "b": _side(report.b),
        "disagreements": [
            {"only_a": kind.only_a, "only_b": kind.only_b, "rows": kind.rows} for kind in report.disagreements[:50]
        ],
        "looked_at": len(report.looked_at),
    }


def csv_tables(report: AgreeReport) -> dict[str, str]:
    """File name -> text: figures by tag, confusion, tags by task, the rows to look at."""
    return {
        "tags.csv": csv_text(_tags(report.agreement), digits=DIGITS),
        "confusion.csv": csv_text(_confusion(report.agreement), digits=DIGITS),
        "tasks.csv": csv_text(_tasks(report), digits=DIGITS),
        "rows.csv": csv_text(_rows(report), digits=DIGITS),
    }


def _side(side: Side) -> dict[str, Any]:
    inverse, issues = side.inverse, side.issues
    return {
        "annotator": side.name,
        "statuses": dict(side.statuses),
        "models": sorted(name for name in side.models if name),
        "rules_versions": sorted(name for name in side.versions if name),
        "broken_rules": {"rows": side.rules.faulty, "of": side.rules.rows, "by_rule": dict(side.rules.by_name)},
        "inverse": None
        if inverse is None
        else {
            "pairs": inverse.pairs,
            "alone": inverse.alone,
            "consistent": _measure(inverse.consistent),
            "error": {tag.tag: _measure(tag.error) for tag in inverse.tags},
        },
        "conflicts": {
            "rows": side.evidence.faulty,
            "of": side.evidence.rows,
            "by_conflict": dict(side.evidence.by_name),
        },
        "label_issues": None
        if issues is None
        else {"rows": len(issues.issues), "of": issues.rows, "reason": issues.reason},
    }


def _tags(agreement: Agreement) -> Rows:
    measures = ("kappa", "ac1", "pabak", *(("precision", "recall", "f1") if agreement.gold else ()))
    head = ["tag", "tier", "both", "only_a", "only_b", "share_a", "share_b", "agreement"]
    rows: Rows = [[*head, *(f"{name}{end}" for name in measures for end in ("", "_low", "_high"))]]
    for tag in agreement.tags:
        values = [tag.tag, tag.tier, tag.both, tag.only_a, tag.only_b, tag.share_a, tag.share_b, tag.agreement]
        rows.append([*values, *(value for name in measures for value in getattr(tag, name).as_data().values())])
    return rows


def _confusion(agreement: Agreement) -> Rows:
    names = (*TAG_NAMES, "nothing")
    return [
        ["a / b", *names],
        *([name, *row] for name, row in zip(names, agreement.confusion_LL.tolist(), strict=True)),
    ]


def _tasks(report: AgreeReport) -> Rows:
    head = ["annotator", "dataset", "native_task", "rows", *TAG_NAMES]
    return [
        head,
        *(
            [side.name, dataset, task, count, *shares.tolist()]
            for side in report.sides
            for dataset, task, count, shares in side.tasks.shares()
        ),
    ]


def _rows(report: AgreeReport) -> Rows:
    """Rows to look at, by reason: what differs most, all label issues, the first broken rules and conflicts."""
    rows: Rows = [["reason", "annotator", "row", "details"]]
    rows += [["differs", "", case.row, "; ".join(case.why)] for case in report.worst]
    for side in report.sides:
        rows += [["rules", side.name, case.row, "; ".join(case.why)] for case in side.broken]
        rows += [["conflict", side.name, case.row, "; ".join(case.why)] for case in side.conflicting]
        for issue in side.issues.issues if side.issues else ():
            doubts = (f"{'' if doubt.given else 'not '}{doubt.tag}, {doubt.probability:.2f}" for doubt in issue.doubts)
            rows.append(["label issue", side.name, issue.number, "; ".join(doubts)])
        for parent, child, differing in side.inverse.examples if side.inverse else ():
            rows.append(["inverse", side.name, child, f"of row {parent}: {', '.join(differing)}"])
    return rows


def _measure(measure: Interval[float | None] | None) -> dict[str, Any] | None:
    return None if measure is None else measure.as_data()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _measure(value) if isinstance(value, Interval) else value for name, value in values.items()}
