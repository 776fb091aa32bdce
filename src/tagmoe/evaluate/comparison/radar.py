"""One measure by task for several editors (paper Fig. 4). The numbers stand in a table beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tagmoe.report.colours import series_colour
from tagmoe.report.svg import LINE, SOFT, as_svg, legend_below, quiet, short, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tagmoe.evaluate.comparison.summary import Summary

LEAST_TASKS = 3


@as_svg
def radar(summary: Summary, measure: str) -> Figure:
    """A spoke for each task that has a value; a gap where an editor has none. Raises as `styled` does."""
    tasks = spokes(summary, measure)
    angles = 2 * np.pi * np.arange(len(tasks)) / len(tasks)
    figure, (axes,) = subplots(7.2, 6.4, subplot_kw={"projection": "polar"})
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    lines = {}
    for number, (name, editor) in enumerate(zip(summary.names, summary.editors, strict=True)):
        values = [editor.by_task[task][measure].value for task in tasks]
        line = np.array([np.nan if value is None else value for value in values], dtype=float)
        style = {"color": series_colour(number), "lw": 1.6, "marker": "o", "ms": 3}
        (lines[name],) = axes.plot(np.append(angles, angles[0]), np.append(line, line[0]), **style)
    axes.set_xticks(angles, [short(task) for task in tasks], fontsize=7.5)
    axes.tick_params(axis="x", pad=8)
    axes.tick_params(axis="y", labelsize=7, labelcolor=SOFT)
    axes.grid(color=LINE, lw=0.7)
    if summary.measures[measure].kind != "number":
        axes.set_ylim(0, 1.02)
    quiet(axes)
    legend_below(figure, lines)
    return figure


def spokes(summary: Summary, measure: str) -> list[str]:
    """The tasks in which some editor has a value."""
    return [task for task in summary.tasks if any(editor.task_cases[task][measure] for editor in summary.editors)]


def measure_by_task(summary: Summary) -> str | None:
    """What is drawn by default: the first measure of which more is better and that three tasks have; None: none."""
    for name, measure in summary.measures.items():
        if measure.better == "higher" and len(spokes(summary, name)) >= LEAST_TASKS:
            return name
    return None
