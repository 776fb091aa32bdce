"""The routing report (paper 4.5, Fig. 6): one offline HTML page, its figures as SVG, its numbers as CSV and JSON.

It is made from a recording alone, without a model. The page loads no other files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tagmoe.report.colours import rgb, series_colour
from tagmoe.report.numbers import percent, points
from tagmoe.report.pages import Tile, page_environment
from tagmoe.report.svg import inline
from tagmoe.routing.effects import Effect, Effects
from tagmoe.routing.figure_set import figure_files, figure_set, task_figures
from tagmoe.routing.findings import Findings, Missing, find
from tagmoe.routing.maps import address, mapped_cases
from tagmoe.routing.predictability import Accuracy
from tagmoe.routing.reading import Recording
from tagmoe.routing.specialization import MutualInformation
from tagmoe.routing.streams import STREAMS
from tagmoe.routing.tables import csv_tables, plain
from tagmoe.sentences import counted

PAGE, DATA, FIGURES = "report.html", "report.json", "figures"
FILES = (PAGE, DATA, FIGURES, "*.csv")


@dataclass(frozen=True)
class SwitchedRow:
    """One case drawn under every condition that acts in all layers. pictures: with success, None if not judged."""

    instruction: str
    task: str | None
    source: str | None
    pictures: list[tuple[str, bool | None]]


def write_report(recording: Recording, folder: Path) -> tuple[dict[str, Any], Findings]:
    """Write the report into an existing folder; returns the content of report.json and what it was made of.

    Raises ResultError for a damaged recording, MissingError without matplotlib or scikit-learn.
    """
    found = find(recording)
    figures, tasks = figure_set(found), task_figures(found)
    data = {
        "recording": recording.header.model_dump(mode="json", exclude={"files"}),
        "numbering": "layers and experts in effects count from 0, in the CSV tables and on the page from 1",
        "findings": {name: plain(value) for name, value in vars(found).items() if name != "case_signatures"},
    }
    (folder / FIGURES).mkdir()
    for name, svg in figure_files(figures, tasks).items():
        (folder / FIGURES / name).write_text(svg, encoding="utf-8")
    for name, text in csv_tables(recording, found).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files = sorted(path.name for path in folder.iterdir())
    (folder / PAGE).write_text(_render(recording, found, figures, tasks, files), encoding="utf-8")
    return data, found


def _render(
    recording: Recording, found: Findings, figures: dict[str, str | Missing], tasks: dict[str, str], files: list[str]
) -> str:
    shown = {name: _embedded(figure, name) for name, figure in figures.items()}
    return (
        page_environment("tagmoe.routing")
        .get_template("report.html.j2")
        .render(
            about=recording.header.about,
            found=found,
            routing_tokens=recording.header.shape.routing_tokens,
            stream_rows=_stream_rows(found),
            title=headline(found),
            tiles=tiles(found),
            figures=shown,
            tasks={task: _embedded(svg, f"task{i}") for i, (task, svg) in enumerate(tasks.items())},
            maps=mapped_cases(recording, _mixed(found.everything.target_LN)),
            switched=_switched(recording, found),
            conditions=[f"{mode} {n + 1}" for mode in ("without", "only") for n in range(found.experts)],
            colours=[rgb(series_colour(n)) for n in range(found.experts)],
            files=files,
        )
    )


def _stream_rows(found: Findings) -> list[tuple[str, str, float, float, float, float]]:
    """(tokens, layer, weight in g, share of variance between tasks, low, high) of each part of g, and of streams."""
    if isinstance(found.streams, Missing):
        return []
    one = found.streams
    rows: list[tuple[str, str, float, float, float, float]] = []
    for stream, tokens in enumerate(STREAMS):
        for layer in range(found.layers):
            dead = tokens == "references" and layer + 1 == found.layers
            value, low, high = (float(x[stream, layer]) for x in (one.variance_SL.value, *one.variance_SL.bounds))
            name = f"{tokens} (dead)" if dead else tokens
            rows.append((name, str(layer + 1), float(one.weight_SL[stream, layer]), value, low, high))
        value, low, high = (float(x[stream]) for x in (one.stream_S.value, *one.stream_S.bounds))
        rows.append((tokens, "all", float(one.weight_SL[stream].sum()), value, low, high))
    return rows


def _embedded(figure: str | Missing, name: str) -> Markup | Missing:
    # The SVG is matplotlib's own, which escapes the text in it.
    return figure if isinstance(figure, Missing) else Markup(inline(figure, name))


def headline(found: Findings) -> str:
    """The page's headline: how well the task can be predicted from the routing, if that was measured."""
    one = found.accuracy_layers
    if isinstance(one, Accuracy):
        return (
            f"The task can be read off the routing in {percent(one.value)} of cases, with shuffled labels in "
            f"{percent(one.permuted)}"
        )
    return f"The routing of {counted(found.cases, 'case')}"


def tiles(found: Findings) -> list[Tile]:
    """The numbers at the top of the page, each with its value by chance. Missing ones are left out."""
    made = []
    for words, one in (("g alone", found.accuracy_signature), ("on equal pictures", found.controlled.accuracy)):
        if isinstance(one, Accuracy):
            beside = f"{percent(one.permuted)} shuffled; {counted(one.tasks, 'task')}"
            made.append(Tile(percent(one.value), f"task read off {words}", beside))
    if not isinstance(found.streams, Missing):
        made.append(
            Tile(
                percent(found.streams.dead.value or 0.0, 1),
                "of the tasks' variance of g from dead tokens",
                f"{percent(found.streams.dead_weight, 1)} of its weight; they cannot change a pixel",
            )
        )
    if isinstance(found.information, MutualInformation):
        info = found.information
        layer = int(np.argmax(info.value_L - info.permuted_L))
        made.append(
            Tile(
                f"{info.value_L[layer]:.3f} nats",
                f"task and expert share, layer {layer + 1}",
                f"{info.permuted_L[layer]:.3f} shuffled; {info.most:.2f} at most",
            )
        )
    if not isinstance(found.mask, Missing):
        inside = found.mask.inside
        layer, expert = divmod(int(np.argmax(inside.value)), found.experts)
        bounds = tuple(bound[layer, expert] for bound in inside.bounds)
        beside = "{:.2f} to {:.2f}".format(*bounds) if inside.has_interval else "needs 5 cases"
        made.append(
            Tile(
                f"{inside.value[layer, expert]:.2f} x",
                f"inside the edit mask, layer {layer + 1} expert {expert + 1}",
                f"interval {beside}; 1 is no preference",
            )
        )
    if not isinstance(found.effects, Missing):
        made.append(_switch_tile(found.effects))
    return made


def _switch_tile(found: Effects) -> Tile:
    off = [one for one in found.switched if one.mode == "off" and one.layer is None]
    if found.success is not None:
        worst = min(off, key=lambda one: float(one.success.value) if one.success is not None else 0.0)
        success = worst.success
        value = 0.0 if success is None else float(success.value)
        beside = ""
        if success is not None and success.has_interval:
            beside = f"interval {points(success.low)} to {points(success.high)}"
        return Tile(f"{points(value)} points", f"success without expert {_number(worst)} in any layer", beside)
    worst = max(off, key=lambda one: float(one.change.value))
    noise = "" if found.noise is None else f"{percent(float(found.noise.change.value), 1)} by other noise"
    return Tile(percent(float(worst.change.value), 1), f"picture changed without expert {_number(worst)}", noise)


def _number(effect: Effect) -> int:
    return (effect.expert or 0) + 1


def _mixed(shares_LN: np.ndarray) -> np.ndarray:
    """Entropy of each layer's shares. The paper looks at layers of mixed utilisation."""
    return np.asarray(-(shares_LN * np.log(np.maximum(shares_LN, 1e-12))).sum(axis=1))


def _switched(recording: Recording, found: Findings) -> list[SwitchedRow]:
    interventions = recording.interventions
    if interventions is None or isinstance(found.effects, Missing):
        return []
    conditions = [
        one
        for mode in ("off", "forced")
        for n in range(found.experts)
        for one in interventions.conditions
        if (one.mode, one.layer, one.expert) == (mode, None, n)
    ]
    if len(conditions) != 2 * found.experts:
        return []
    columns = [(interventions.pictures, interventions.success), *((c.pictures, c.success) for c in conditions)]
    by_id = {case.id: case for case in recording.cases}
    rows = []
    for index, name in enumerate(interventions.cases):
        if any(name not in pictures for pictures, _ in columns):
            continue
        case = by_id[name]
        source = case.pictures.get("source0")
        rows.append(
            SwitchedRow(
                instruction=case.facts.instruction,
                task=case.facts.task,
                source=None if source is None else address(recording.picture(source)),
                pictures=[
                    (address(recording.picture(pictures[name])), success[index]) for pictures, success in columns
                ],
            )
        )
    return rows
