"""The report of runs on a benchmark: one offline page, and its numbers as JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from tagmoe.errors import ImageError, MissingError
from tagmoe.evaluate.answers.answer import FAILURES
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.comparison import tables
from tagmoe.evaluate.comparison.paper_tables import beside_the_paper
from tagmoe.evaluate.comparison.radar import measure_by_task, radar, spokes
from tagmoe.evaluate.comparison.summary import NO_OUTPUT, Summary, as_data
from tagmoe.evaluate.run_folder import RunFacts
from tagmoe.files.atomic import write_whole
from tagmoe.pictures import data_address
from tagmoe.report.numbers import named, points
from tagmoe.report.pages import Tile, page_environment
from tagmoe.report.svg import inline

PAGE = "report.html"
FILES = (PAGE, "report.json", "scores.csv", "cases.csv", "scores.md", "scores.tex")
THUMBNAIL = 192
LISTED = 50


@dataclass(frozen=True)
class NotDrawn:
    """Why a figure is not on the page."""

    reason: str


@dataclass(frozen=True)
class Shown:
    """A case of the gallery. pictures: (address, what it is, what stands below, why there is none)."""

    case: Case
    pictures: tuple[tuple[str, str, str, str], ...]


def write_report(
    summary: Summary, folder: Path, *, pictures: int, about: Mapping[str, str], by_task: str | None = None
) -> dict[str, Any]:
    """Write all files into an existing folder; returns what report.json holds.

    pictures: cases in the gallery. about: further facts of the page (command, date). by_task: the measure of the radar.
    """
    paper = beside_the_paper(summary)
    data = {**as_data(summary), "paper": None if paper is None else paper.as_data(), **about}
    write_whole(folder / "report.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "scores.csv", tables.scores_csv(summary))
    write_whole(folder / "cases.csv", tables.cases_csv(summary))
    write_whole(folder / "scores.md", tables.scores_markdown(summary))
    write_whole(folder / "scores.tex", tables.scores_latex(summary))
    write_whole(folder / PAGE, render(summary, pictures=pictures, about=about, by_task=by_task))
    return data


def render(summary: Summary, *, pictures: int, about: Mapping[str, str], by_task: str | None = None) -> str:
    """The page. All text is escaped: instructions, ids and names come from outside."""
    environment = page_environment("tagmoe.evaluate.comparison")
    measures = tables.known(summary)
    settings = dict(summary.prepared.manifest.settings)
    not_chosen = settings.pop("not_chosen", {})
    drawn = by_task if by_task is not None else measure_by_task(summary)
    environment.globals |= {
        "shown": tables.shown,
        "digits": tables.digits,
        "unit": tables.unit,
        "is_best": tables.is_best,
        "points": points,
    }
    return environment.get_template("report.html.j2").render(
        s=summary,
        manifest=summary.prepared.manifest,
        editors=list(zip(summary.names, summary.editors, strict=True)),
        measures=measures,
        tiles=_tiles(summary),
        statuses=_statuses(summary),
        failures=_failures(summary),
        listed=LISTED,
        by_task=drawn,
        tasks=[] if drawn is None else spokes(summary, drawn),
        radar=_radar(summary, drawn),
        gallery=_gallery(summary, pictures),
        paper=beside_the_paper(summary),
        chosen=named(_flat(settings)),
        not_chosen=named(not_chosen),
        facts_of_editors=[_facts(editor.run.facts) for editor in summary.editors],
        about=about,
        no_output=NO_OUTPUT,
    )


def _tiles(summary: Summary) -> list[Tile]:
    """How much there is, and for each editor the first measure of which more is better."""
    manifest = summary.prepared.manifest
    tiles = [Tile(f"{manifest.cases:,}", "cases", f"of {len(manifest.tasks)} tasks")]
    first = measure_by_task(summary)
    for name, editor in zip(summary.names, summary.editors, strict=True):
        if first is not None and len(tiles) < 8:
            figure, measure = editor.figures[first], summary.measures[first]
            value = "-" if figure.micro.value is None else tables.digits(figure.micro.value, measure)
            unit = " %" if measure.kind != "number" and value != "-" else ""
            tiles.append(Tile(value + unit, f"{first}, {name}", f"n {figure.cases:,} of {figure.applicable:,}"))
    return tiles


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Plain data with the names of what is inside joined by dots, so that they can be read in a line."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = " | ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return found


def _facts(facts: RunFacts) -> list[tuple[str, str]]:
    """All that is known of an editor: what every editor has, and whatever else it says of itself (revision, ...)."""
    editor = dict(facts.editor)
    weights = editor.pop("weights", None) or editor.pop("digest", None) or ""
    settings, asking = editor.pop("settings", None) or {}, editor.pop("asking", None) or {}
    editor.pop("name", None)
    return [
        ("key", facts.key[:16]),
        ("editor", str(editor.pop("kind", ""))),
        *((name, named(_flat(value)) if isinstance(value, dict) else str(value)) for name, value in editor.items()),
        ("weights", str(weights)[:16]),
        ("settings", named(_flat(settings))),
        ("asked", named(_flat(asking))),
        ("seed", str(facts.seed)),
        ("rewriting", "none" if facts.rewriting is None else named(facts.rewriting)),
    ]


def _statuses(summary: Summary) -> list[str]:
    """Statuses that some run has, the good one first."""
    found = dict.fromkeys(status for editor in summary.editors for status in editor.statuses)
    return sorted(found, key=lambda status: (status != "ok", status))


def _failures(summary: Summary) -> list[tuple[str, str, str, str]]:
    """(editor, id, status, reason) of every case that failed."""
    return [
        (name, answer.id, answer.status, answer.reason)
        for name, editor in zip(summary.names, summary.editors, strict=True)
        for case in summary.prepared.cases
        if (answer := editor.run.answers.get(case.key)) is not None and answer.status in FAILURES
    ]


def _radar(summary: Summary, measure: str | None) -> Markup | NotDrawn:
    if measure is None or len(spokes(summary, measure)) < 3:
        return NotDrawn("fewer than three tasks have a measure of which more is better.")
    try:
        # Text of others is in it as text of the SVG, which matplotlib escapes.
        return Markup(inline(radar(summary, measure), "radar"))
    except MissingError as error:
        return NotDrawn(str(error))


def _gallery(summary: Summary, pictures: int) -> list[Shown]:
    """Cases spread over the tasks: the first of each, then the second, as many as asked for."""
    if not pictures:
        return []
    seen: dict[str, int] = {}
    order = []
    for place, case in enumerate(summary.prepared.cases):
        seen[case.task] = seen.get(case.task, 0) + 1
        order.append((seen[case.task], place))
    first = [place for rank, place in sorted(order)]
    step = max(1, len(summary.tasks) // pictures)
    chosen = (first[: len(summary.tasks)][::step] + first[len(summary.tasks) :])[:pictures]
    return [_shown(summary, summary.prepared.cases[place]) for place in sorted(chosen)]


def _shown(summary: Summary, case: Case) -> Shown:
    prepared = summary.prepared
    given = [("source", case.source), *((f"reference {n}", name) for n, name in enumerate(case.refs, 1))]
    given += [("mask", case.mask), ("target", case.target)]
    pictures = [_tile(partial(prepared.picture, name), role) for role, name in given if name is not None]
    for name, editor in zip(summary.names, summary.editors, strict=True):
        answer = editor.run.answers.get(case.key)
        if answer is None or answer.file is None:
            pictures.append(("", name, name, "not generated" if answer is None else answer.status))
            continue
        pictures.append(_tile(partial(editor.run.picture, answer), name))
    return Shown(case, tuple(pictures))


def _tile(open_picture: Callable[[], Image.Image], name: str) -> tuple[str, str, str, str]:
    """A picture of `Shown`; one that is gone or damaged is no reason to have no report."""
    try:
        return _thumbnail(open_picture()), name, name, ""
    except ImageError:
        return "", name, name, "unreadable"


def _thumbnail(picture: Image.Image) -> str:
    """Of photographs a JPEG; small drawn pictures keep their pixels."""
    if max(picture.size) <= THUMBNAIL:
        return data_address(picture)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_address(picture, kind="JPEG")
