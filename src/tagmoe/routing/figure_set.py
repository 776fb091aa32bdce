"""The figures of a routing report by name: each is SVG, or the reason why it is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tagmoe.intervals import Interval
from tagmoe.routing import figures, heatmaps
from tagmoe.routing.contrasts import Contrast
from tagmoe.routing.effects import Effect, Effects
from tagmoe.routing.findings import Findings, MaskFinding, Missing, Steps
from tagmoe.routing.predictability import Accuracy
from tagmoe.routing.regions import Region
from tagmoe.routing.specialization import MutualInformation
from tagmoe.routing.streams import STREAMS
from tagmoe.sentences import counted

Figure = str | Missing
Found = TypeVar("Found")


def figure_set(found: Findings) -> dict[str, Figure]:
    """Every figure but the heat maps of single tasks, in the order of the page."""
    return {
        "utilisation": heatmaps.overview({"all cases": found.everything.target_LN, **_targets(found)}),
        "utilisation-references": _references(found),
        "signature-target": _signature(found, 0),
        "signature-references": _signature(found, 1),
        "utilisation-steps": _drawn(found.steps, lambda one: _steps(one, found.experts)),
        "information": _drawn(found.information, lambda one: _information(one, found.information_references)),
        "information-tasks": _drawn(found.information, heatmaps.task_information),
        "accuracy": _accuracy(found),
        "tags": _drawn(found.tags, lambda one: _tags(one, (found.layers, found.experts))),
        "similarity": _drawn(found.similarity, lambda one: heatmaps.similarity(one.tasks, one.cosine)),
        "components": _drawn(found.components, lambda one: figures.scatter(one.coordinates, one.shares, one.labels)),
        "mask": _drawn(found.mask, lambda one: _mask(one, found.mask_reference)),
        "mask-steps": _drawn(found.mask, _mask_steps),
        "region": _drawn(found.region, _region),
        "contrasts": _drawn(found.controlled.contrasts, _contrasts),
        "variance": _drawn(found.controlled.variance, lambda one: figures.variance_bars(one.share, one.by_chance)),
        "switches": _drawn(found.effects, lambda one: _switches(one, found)),
        "switches-tasks": _drawn(found.effects, lambda one: _switched_tasks(one, found)),
    }


def task_figures(found: Findings) -> dict[str, str]:
    """Fig. 6 middle of every task, by the task's name."""
    return {task: heatmaps.utilisation(shares) for task, shares in found.utilisation.items()}


def file_name(text: str) -> str:
    """A task's name as part of a file name. Names can collide here; `figure_files` tells them apart."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "task"


def figure_files(found: dict[str, Figure], tasks: dict[str, str]) -> dict[str, str]:
    """{file name: SVG} of all figures that are not missing."""
    files = {f"{name}.svg": figure for name, figure in found.items() if isinstance(figure, str)}
    for number, (task, figure) in enumerate(tasks.items(), 1):
        files[f"task-{number:02d}-{file_name(task)}.svg"] = figure
    return files


def _drawn(found: Found | Missing, draw: Callable[[Found], Figure]) -> Figure:
    """The figure of what was found, or why it is missing."""
    return found if isinstance(found, Missing) else draw(found)


def _targets(found: Findings) -> dict[str, np.ndarray]:
    return {task: shares.target_LN for task, shares in found.utilisation.items()}


def _references(found: Findings) -> Figure:
    rows = {task: s.references_LN for task, s in found.utilisation.items() if s.references_LN is not None}
    if found.everything.references_LN is None:
        return Missing("No case has a reference picture.")
    return heatmaps.overview({"all cases": found.everything.references_LN, **rows})


def _signature(found: Findings, stream: int) -> Figure:
    """Mean gate scores of one stream's tokens by task, in the order of `streams.STREAMS`."""
    rows = {task: means[stream] for task, means in found.signature_streams.items() if np.isfinite(means[stream]).all()}
    return heatmaps.overview(rows) if rows else Missing(f"No case with a task has {STREAMS[stream]}.")


def _steps(found: Steps, experts: int) -> Figure:
    return figures.by_timestep(found.timesteps_S, found.shares_SLN, None, 1 / experts, "share of first choices")


def _information(target: MutualInformation, references: MutualInformation | Missing) -> Figure:
    return figures.information(target, references if isinstance(references, MutualInformation) else None)


def _accuracy(found: Findings) -> Figure:
    rows = []
    n, length = found.experts, found.layers * found.experts
    for name, one in (
        (f"all layers: {counted(length, 'number')}", found.accuracy_layers),
        (f"g of Eq. 3: {counted(n, 'number')}", found.accuracy_signature),
        ("same pictures, one left out", found.controlled.accuracy),
    ):
        if isinstance(one, Accuracy):
            rows.append(
                (
                    f"{name}\n{counted(one.tasks, 'task')}, {counted(one.cases, 'case')}",
                    one.value,
                    one.permuted,
                    one.permuted_high,
                )
            )
    if rows:
        return figures.accuracies(rows)
    return found.accuracy_layers if isinstance(found.accuracy_layers, Missing) else Missing("There are too few cases.")


def _tags(found: dict[str, Interval[np.ndarray]], shape: tuple[int, int]) -> Figure:
    size = math.prod(shape)
    values = np.stack([one.value[:size].reshape(shape) for one in found.values()])
    sure = np.stack([one.excludes(0)[:size].reshape(shape) for one in found.values()])
    rows = [f"{name} ({one.n})" for name, one in found.items()]
    return heatmaps.stacked(values, rows, write="{:+.1f}", scale=100, strong=sure)


def _mask(found: MaskFinding, reference: MaskFinding | Missing) -> Figure:
    panels = [("picture being made", found.inside)]
    if found.elsewhere is not None:
        panels.append(("in other cases' masks", found.elsewhere))
    if isinstance(reference, MaskFinding):
        panels.append(("reference", reference.inside))
    return heatmaps.concentration(panels)


def _mask_steps(found: MaskFinding) -> Figure:
    if found.by_step is None:
        return Missing("The cases have different numbers of kept steps.")
    band = (found.by_step.low, found.by_step.high)
    return figures.by_timestep(found.timesteps_K, found.by_step.value, band, 1.0, "concentration in the mask")


def _region(found: Region) -> Figure:
    panels = [("picture being made", found.difference)]
    if found.reference_difference is not None:
        panels.append(("source", found.reference_difference))
    return heatmaps.differences(panels)


def _contrasts(rows: list[Contrast]) -> Figure:
    bars = []
    for row in rows:
        value = float(row.distance.value)
        low, high = map(float, row.distance.bounds) if row.distance.has_interval else (value, value)
        bars.append((row.about, value, low, high, row.pairs))
    return figures.contrast_bars(bars)


def _switches(found: Effects, of: Findings) -> Figure:
    places: list[int | None] = [None, *range(of.layers)]
    panels: list[heatmaps.SwitchPanel] = []
    for mode, title in (("off", "off"), ("forced", "forced")):
        rows = [[found.find(mode, layer, expert) for expert in range(of.experts)] for layer in places]
        if any(one is None for row in rows for one in row):
            return Missing("Not every expert of every layer was switched.")
        grid: list[list[Effect]] = [[one for one in row if one is not None] for row in rows]
        change = np.array([[float(one.change.value) for one in row] for row in grid])
        panels.append((f"{title}: picture, %", change, None, "change", "{:.1f}"))
        if found.success is not None:
            values = np.array([[_success(one).value for one in row] for row in grid], dtype=np.float64)
            sure = np.array([[_success(one).excludes(0) for one in row] for row in grid])
            panels.append((f"{title}: success, points", values, sure, "success", "{:+.0f}"))
    names = ["every layer", *[f"layer {layer + 1}" for layer in range(of.layers)]]
    return heatmaps.switches(panels, names)


def _switched_tasks(found: Effects, of: Findings) -> Figure:
    off = [found.find("off", None, expert) for expert in range(of.experts)]
    forced = [found.find("forced", None, expert) for expert in range(of.experts)]
    if any(one is None for one in (*off, *forced)):
        return Missing("Not every expert was switched in every layer at once.")
    tasks = list(off[0].by_task) if off[0] is not None else []
    kind, write = ("change", "{:.1f}") if found.success is None else ("success", "{:+.0f}")
    panels: list[heatmaps.SwitchPanel] = []
    for title, row in (("off", off), ("forced", forced)):
        values = [[getattr(one.by_task[task], kind) for one in row if one is not None] for task in tasks]
        unit = "picture, %" if kind == "change" else "success, points"
        panels.append((f"{title}: {unit}", np.array(values, dtype=np.float64), None, kind, write))
    return heatmaps.switches(panels, tasks)


def _success(effect: Effect) -> Interval[float]:
    assert effect.success is not None
    return effect.success
