"""Which figures a routing report has: every one by its name, as SVG, or with the reason why it is missing."""

from __future__ import annotations

import re

import numpy as np

from tagmoe.intervals import Interval
from tagmoe.routing import figures, heatmaps
from tagmoe.routing.effects import Effect, Effects
from tagmoe.routing.findings import Findings, MaskFinding, Missing
from tagmoe.routing.predictability import Accuracy
from tagmoe.routing.regions import Region
from tagmoe.routing.specialization import MutualInformation

Figure = str | Missing


def figure_set(found: Findings) -> dict[str, Figure]:
    """Every figure but the heat maps of single tasks, in the order of the page."""
    switched = found.effects
    return {
        "utilisation": heatmaps.overview({"all cases": found.everything.target_LN, **_targets(found)}),
        "utilisation-references": _references(found),
        "utilisation-steps": _steps(found),
        "information": _information(found),
        "information-tasks": found.information
        if isinstance(found.information, Missing)
        else heatmaps.task_information(found.information),
        "accuracy": _accuracy(found),
        "tags": _tags(found),
        "similarity": found.similarity
        if isinstance(found.similarity, Missing)
        else heatmaps.similarity(found.similarity.tasks, found.similarity.cosine),
        "components": found.components
        if isinstance(found.components, Missing)
        else figures.scatter(found.components.coordinates, found.components.shares, found.components.labels),
        "mask": _mask(found),
        "mask-steps": _mask_steps(found.mask),
        "region": _region(found.region),
        "contrasts": _contrasts(found),
        "variance": found.controlled.variance
        if isinstance(found.controlled.variance, Missing)
        else figures.variance_bars(found.controlled.variance.share, found.controlled.variance.by_chance),
        "switches": switched if isinstance(switched, Missing) else _switches(switched, found),
        "switches-tasks": switched if isinstance(switched, Missing) else _switched_tasks(switched, found),
    }


def task_figures(found: Findings) -> dict[str, str]:
    """Fig. 6 middle of every task, by the task's name."""
    return {task: heatmaps.utilisation(shares) for task, shares in found.utilisation.items()}


def file_name(text: str) -> str:
    """A task's name as part of a file name; different names of the same letters get the same, see `figure_files`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "task"


def figure_files(found: dict[str, Figure], tasks: dict[str, str]) -> dict[str, str]:
    """File name -> SVG of all figures that there are."""
    files = {f"{name}.svg": figure for name, figure in found.items() if isinstance(figure, str)}
    for number, (task, figure) in enumerate(tasks.items(), 1):
        files[f"task-{number:02d}-{file_name(task)}.svg"] = figure
    return files


def _targets(found: Findings) -> dict[str, np.ndarray]:
    return {task: shares.target_LN for task, shares in found.utilisation.items()}


def _references(found: Findings) -> Figure:
    rows = {task: s.references_LN for task, s in found.utilisation.items() if s.references_LN is not None}
    if found.everything.references_LN is None:
        return Missing("No case has a reference picture.")
    return heatmaps.overview({"all cases": found.everything.references_LN, **rows})


def _steps(found: Findings) -> Figure:
    if isinstance(found.steps, Missing):
        return found.steps
    return figures.by_timestep(
        found.steps.timesteps_S, found.steps.shares_SLN, None, 1 / found.experts, "share of first choices"
    )


def _information(found: Findings) -> Figure:
    if isinstance(found.information, Missing):
        return found.information
    references = found.information_references
    return figures.information(found.information, references if isinstance(references, MutualInformation) else None)


def _accuracy(found: Findings) -> Figure:
    rows = []
    n, length = found.experts, found.layers * found.experts
    for name, one in (
        (f"all layers: {length} numbers", found.accuracy_layers),
        (f"g of Eq. 3: {n} numbers", found.accuracy_signature),
        ("same pictures, one left out", found.controlled.accuracy),
    ):
        if isinstance(one, Accuracy):
            rows.append((f"{name}\n{one.tasks} tasks, {one.cases} cases", one.value, one.permuted, one.permuted_high))
    if rows:
        return figures.accuracies(rows)
    return found.accuracy_layers if isinstance(found.accuracy_layers, Missing) else Missing("There are too few cases.")


def _tags(found: Findings) -> Figure:
    if isinstance(found.tags, Missing):
        return found.tags
    shape, size = (found.layers, found.experts), found.layers * found.experts
    values = np.stack([one.value[:size].reshape(shape) for one in found.tags.values()])
    sure = np.stack([one.excludes(0)[:size].reshape(shape) for one in found.tags.values()])
    rows = [f"{name} ({one.n})" for name, one in found.tags.items()]
    return heatmaps.stacked(values, rows, write="{:+.1f}", scale=100, strong=sure)


def _mask(found: Findings) -> Figure:
    if isinstance(found.mask, Missing):
        return found.mask
    panels = [("picture being made", found.mask.inside)]
    if found.mask.elsewhere is not None:
        panels.append(("in other cases' masks", found.mask.elsewhere))
    if isinstance(found.mask_reference, MaskFinding):
        panels.append(("reference", found.mask_reference.inside))
    return heatmaps.concentration(panels)


def _mask_steps(found: MaskFinding | Missing) -> Figure:
    if isinstance(found, Missing):
        return found
    if found.by_step is None:
        return Missing("The cases have different numbers of kept steps.")
    band = (found.by_step.low, found.by_step.high)
    return figures.by_timestep(found.timesteps_K, found.by_step.value, band, 1.0, "concentration in the mask")


def _region(found: Region | Missing) -> Figure:
    if isinstance(found, Missing):
        return found
    panels = [("picture being made", found.difference)]
    if found.reference_difference is not None:
        panels.append(("source", found.reference_difference))
    return heatmaps.differences(panels)


def _contrasts(found: Findings) -> Figure:
    rows = found.controlled.contrasts
    if isinstance(rows, Missing):
        return rows
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
