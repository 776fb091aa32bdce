"""The agreement of two annotators as one offline page: tables, heat maps, and the rows that are worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tagmoe.annotation.answer import CANONICAL, column_of
from tagmoe.annotation.quality.agree import AgreeReport, Case, Side
from tagmoe.annotation.quality.agreement import Agreement
from tagmoe.data.check.page import MAX_TEXT, shown_picture
from tagmoe.data.store.record import NO_INPUTS
from tagmoe.data.store.store import Store
from tagmoe.intervals import GROUPS, Interval
from tagmoe.report.numbers import percent, percent_near_ends, with_interval
from tagmoe.report.pages import Tile, page_environment
from tagmoe.sentences import counted
from tagmoe.tags import RULES, TAG_NAMES, TIERS

KINDS = 14
MAX_TASKS = 40
APART = 10.0
"""Percentage points from which two annotators' use of a tag in a task is outlined."""
CASES = 12
DISTANCE_NAMES = {"jaccard": "Jaccard", "masi": "MASI"}


def render(store: Store, report: AgreeReport, files: Iterable[str]) -> str:
    """The HTML page. All text is escaped: instructions, ids and names come from outside."""
    agreement = report.agreement
    shown_side, other_side = (report.b, report.a) if agreement.gold == "a" else report.sides
    inverse = [(side, _inverse_cases(side)) for side in report.sides]
    issues = [(side, _issue_cases(side)) for side in (shown_side, other_side)]
    cases = [*report.worst, *(case for _, some in (*inverse, *issues) for case in some)]
    cases += [case for side in report.sides for case in (*side.broken[:8], *side.conflicting[:8])]
    environment = page_environment("tagmoe.annotation.quality")
    environment.filters |= {
        "figure": figure,
        "bare": lambda measure: "" if measure is None or measure.value is None else f"{measure.value:.2f}",
        "place": lambda value: round(4 + 100 * min(1.0, max(0.0, value)), 1),
        "percents": _percents,
    }
    return environment.get_template("agree.html.j2").render(
        facts=_facts(store, report),
        report=report,
        a=report.a,
        b=report.b,
        gold=agreement.gold,
        agreement=agreement,
        headline=headline(report),
        tiles=tiles(report),
        by_tier=[(tier, [tag for tag in agreement.tags if tag.tier == tier]) for tier in TIERS],
        confusion=_confusion(agreement),
        differing=agreement.rows - int(agreement.confusion_LL[-1, -1]),
        kinds=report.disagreements[:KINDS],
        # how they differ is seen on the card
        worst=[Case(case.row, ()) for case in report.worst],
        shown_side=shown_side,
        other_side=other_side,
        tasks=_tasks(shown_side, other_side),
        rule_words={rule.name: rule.text for rule in RULES},
        inverse_cases=inverse,
        issue_cases=issues,
        records=_records(store, report, cases),
        files=list(files),
    )


def _facts(store: Store, report: AgreeReport) -> list[tuple[str, str]]:
    """What was compared, as names and values."""
    agreement = report.agreement
    rows = [("store", f"{store.uri.rsplit('/', 1)[-1]}, {counted(report.rows, 'row')}")]
    for side in report.sides:
        parts = [", ".join(f"{status} {number:,}" for status, number in side.statuses.most_common())]
        for kind, names in (("model", side.models), ("rules", side.versions)):
            found = [name for name, _ in names.most_common(3) if name]
            parts += [f"{kind} {', '.join(found)}"] if found else []
        rows.append((side.name, "; ".join(parts)))
    groups = "groups of root pictures" if agreement.roots == GROUPS else "root pictures"
    drawn = f"95 %, {counted(agreement.draws, 'draw')} of {agreement.roots:,} {groups}, seed {agreement.seed}"
    return [*rows, ("intervals", drawn)]


def headline(report: AgreeReport) -> str:
    """The result in one sentence."""
    agreement = report.agreement
    equal = percent_near_ends(agreement.exact.value)
    text = f"On {counted(agreement.rows, 'row')} that both answered, the sets of tags are equal in {equal}"
    if agreement.gold is not None and agreement.micro_f1 is not None:
        return f"{text}; against gold, F1 is {figure(agreement.micro_f1)}."
    return f"{text}; alpha (MASI) is {figure(agreement.alpha_masi)}."


def tiles(report: AgreeReport) -> list[Tile]:
    """The numbers at the top of the page."""
    agreement = report.agreement
    made = [
        Tile(f"{agreement.rows:,}", "rows that both answered", f"of {report.rows:,} in the store"),
        _tile(agreement.alpha_masi, f"alpha, {DISTANCE_NAMES['masi']}"),
        _tile(agreement.alpha_jaccard, f"alpha, {DISTANCE_NAMES['jaccard']}"),
        _tile(agreement.exact, "equal sets"),
        _tile(agreement.jaccard, "mean Jaccard"),
    ]
    against_gold = ((agreement.micro_f1, "F1 of all tags"), (agreement.macro_f1, "mean F1 of the tags"))
    return [
        *made,
        *(
            _tile(alpha, f"alpha, {DISTANCE_NAMES[distance]}, with {', '.join(report.also)}")
            for distance, alpha in report.alphas_of_all.items()
        ),
        *(_tile(measure, name) for measure, name in against_gold if measure is not None),
        *(
            _tile(side.inverse.consistent, f"inverses consistent, {side.name}")
            for side in report.sides
            if side.inverse is not None and side.inverse.pairs
        ),
    ]


def figure(measure: Interval[float | None]) -> str:
    """A figure with its interval."""
    return with_interval(measure.value, measure.low, measure.high)


def _percents(measure: Interval[float | None]) -> str:
    if measure.value is None:
        return ""
    if measure.low is None:
        return percent_near_ends(measure.value)
    low, high = percent_near_ends(measure.low).removesuffix(" %"), percent_near_ends(measure.high)
    return f"{percent_near_ends(measure.value)} ({low} to {high})"


def _tile(measure: Interval[float | None], name: str) -> Tile:
    value = "-" if measure.value is None else f"{measure.value:.3f}"
    bounds = figure(measure).partition("(")[2].rstrip(")")
    return Tile(value, name, bounds if measure.has_interval else "no interval")


def _confusion(agreement: Agreement) -> dict[str, Any] | None:
    """The part of the table in which anything differs; shares are of the largest count off the diagonal."""
    counts_LL = agreement.confusion_LL
    apart_LL = counts_LL - np.diag(np.diag(counts_LL))
    if not apart_LL.any():
        return None
    names = (*TAG_NAMES, "nothing")
    used = np.flatnonzero(apart_LL.any(axis=0) | apart_LL.any(axis=1)).tolist()

    def cell(row: int, column: int) -> dict[str, Any]:
        count = int(counts_LL[row, column])
        share = 0 if row == column else round(100 * count / apart_LL.max())
        return {"name": names[column], "count": count, "share": share, "same": row == column}

    rows = [{"name": names[row], "cells": [cell(row, column) for column in used]} for row in used]
    return {"names": [names[column] for column in used], "rows": rows}


def _tasks(shown: Side, other: Side) -> dict[str, Any]:
    others = {(dataset, task): shares for dataset, task, _, shares in other.tasks.shares()}
    found = sorted(shown.tasks.shares(), key=lambda item: (item[0], -item[2], item[1]))
    several = len({dataset for dataset, *_ in found}) > 1
    used = [tag for tag in range(len(TAG_NAMES)) if any(shares[tag] > 0 for *_, shares in found)]
    rows = []
    for dataset, task, count, shares in found[:MAX_TASKS]:
        cells = []
        for tag in used:
            share, beside = 100 * float(shares[tag]), others.get((dataset, task))
            words = f"{TAG_NAMES[tag]} in {task or 'no task'}: {percent(share / 100)}"
            apart = beside is not None and abs(share - 100 * beside[tag]) >= APART
            if beside is not None:
                words += f", {other.name} {percent(beside[tag])}"
            cells.append({"share": share, "title": words, "apart": apart})
        name = task or "(no name)"
        rows.append({"name": f"{dataset}: {name}" if several and dataset else name, "rows": count, "cells": cells})
    return {"names": [TAG_NAMES[tag] for tag in used], "rows": rows, "left": max(0, len(found) - MAX_TASKS)}


def _inverse_cases(side: Side) -> list[Case]:
    pairs = () if side.inverse is None else side.inverse.examples[: CASES // 3]
    return [
        Case(row, (what, f"{side.name} differs in: {', '.join(pair.differing)}"))
        for pair in pairs
        for row, what in ((pair.parent, "the edit"), (pair.child, "its inverse"))
    ]


def _issue_cases(side: Side) -> list[Case]:
    issues = () if side.issues is None else side.issues.issues[:CASES]
    return [
        Case(
            issue.number,
            tuple(
                f"{side.name} {'gives' if doubt.given else 'lacks'} {doubt.tag}, the probe says {doubt.probability:.2f}"
                for doubt in issue.doubts[:3]
            ),
        )
        for issue in issues
    ]


def _records(store: Store, report: AgreeReport, cases: Iterable[Case]) -> dict[int, dict[str, Any]]:
    rows = sorted({case.row for case in cases})
    columns = {side.name: "tags" if side.name == CANONICAL else column_of(side.name) for side in report.sides}
    names = ["id", "dataset", "native_task", "operation", "instruction", "images", "target", *columns.values()]
    # one at a time: a picture of a camera has megabytes
    taken = ((row, store.take([row], list(dict.fromkeys(names))).to_pylist()[0]) for row in rows)
    return {row: _shown(read, *columns.values()) for row, read in taken}


def _shown(row: Mapping[str, Any], *columns: str) -> dict[str, Any]:
    a, b = (row[column] if column == "tags" else (row[column] or {}).get("tags") for column in columns)
    pictures = [item for item in row["images"] or () if item["role"] not in NO_INPUTS]
    of_a, of_b = set(a or ()), set(b or ())

    def named(tags: set[int]) -> list[str]:
        return [TAG_NAMES[tag] for tag in sorted(tags)]

    return {
        "id": row["id"],
        "dataset": row["dataset"],
        "native_task": row["native_task"],
        "operation": row["operation"],
        "instruction": row["instruction"][:MAX_TEXT],
        "shared": named(of_a & of_b),
        "only_a": None if a is None else named(of_a - of_b),
        "only_b": None if b is None else named(of_b - of_a),
        "same": a is not None and b is not None and of_a == of_b,
        "pictures": [shown_picture(item) for item in (*pictures, {**row["target"], "role": "target"})],
    }
