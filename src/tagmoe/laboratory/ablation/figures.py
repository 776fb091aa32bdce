"""The figures of an ablation as SVG: differences, convergence (Fig. 6, left), timesteps, tasks, alignment, routing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tagmoe.laboratory.ablation.paired import Estimate
from tagmoe.laboratory.ablation.results import Result
from tagmoe.laboratory.ablation.table import PAPER_ARMS, Summary, logged
from tagmoe.report.colours import SERIES
from tagmoe.report.svg import SOFT, as_svg, grid, legend_below, styled, subplots, svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED_SHARE = 0.2
TASK_PANELS = 4
ZERO: Any = {"color": SOFT, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}

Curves = Callable[[Result], tuple[Sequence[float], Sequence[float]]]


def figures(summary: Summary) -> dict[str, str]:
    """{name: SVG} of every figure that the results have data for. Raises MissingError without matplotlib."""
    with styled():
        drawn = {name: draw(summary) for name, draw in DRAWN.items()}
        return {name: svg_text(figure) for name, figure in drawn.items() if figure is not None}


@as_svg
def gradient_figure(gradients: dict[str, Any]) -> Figure:
    """SVG of the cosines between tasks' gradients, a panel an arm; `gradients` as in interference.json."""
    figure, panels = subplots(1.6 + 2.9 * len(gradients), 4.0, len(gradients), sharey=True)
    for axes, (arm, found) in zip(panels, gradients.items(), strict=True):
        names = found["tasks"]
        image = axes.pcolormesh(found["cosine"], cmap="coolwarm_r", vmin=-1, vmax=1)
        axes.invert_yaxis()
        axes.set(aspect="equal", title=arm)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=6)
        axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=6)
    figure.colorbar(image, ax=panels, label="cosine of gradients", shrink=0.7)
    return figure


def differences(summary: Summary) -> Figure | None:
    """Each arm's difference in success to the baseline. Thick: over cases. Thin: over seeds too. Ticks: seeds."""
    rows = [row for row in reversed(summary.rows) if row.differences.get("success") is not None]
    if not rows:
        return None
    figure, (axes,) = subplots(8.5, 0.9 + 0.34 * len(rows))
    for place, row in enumerate(rows):
        _interval_line(axes, place, row.differences["success"], _colour(summary, row.arm), by_seed=True)
    _about_zero(axes, [row.arm for row in rows])
    axes.set_xlabel(f"success, difference to {summary.baseline} in points")
    return figure


def convergence(summary: Summary) -> Figure | None:
    """Fig. 6 (left): flow loss in training (smoothed) and validation, and success, by step; mean and range of seeds."""
    panels: list[tuple[str, Curves, bool]] = [
        ("training flow loss, smoothed", lambda run: _smooth(*logged(run, "flow")), True),
        ("validation flow loss", lambda run: _validated(run, "flow"), True),
        ("validation success", lambda run: _validated(run, "success"), False),
    ]
    return _panels(summary, panels)


def alignment(summary: Summary) -> Figure | None:
    """L_align and the effective rank of W_tag by step, of arms that log them."""
    panels: list[tuple[str, Curves, bool]] = [
        ("L_align", lambda run: logged(run, "alignment"), False),
        ("effective rank of W_tag", lambda run: logged(run, "tags/effective_rank"), False),
    ]
    return _panels(summary, panels)


def timesteps(summary: Summary) -> Figure | None:
    """Flow loss by timestep as a share of the baseline's, paired by seed; mean and range of seeds."""
    arms = [arm for arm in _shown(summary) if arm != summary.baseline and _pairs(summary, arm)]
    if not arms:
        return None
    steps = np.array(summary.collection.first.flow.timesteps)
    figure, (axes,) = subplots(8.5, 3.2)
    lines = {}
    for arm in arms:
        ratios = [100 * (np.array(one.flow.loss) / two.flow.loss - 1) for one, two in _pairs(summary, arm)]
        lines[arm] = _band(axes, steps, np.array(ratios, dtype=np.float64), _colour(summary, arm))
    grid(axes)
    axes.axhline(0, **ZERO)
    axes.set(xlabel="timestep (1 is noise)", ylabel=f"flow loss against {summary.baseline}, %")
    legend_below(figure, lines)
    return figure


def tasks(summary: Summary) -> Figure | None:
    """Difference in success by task, with intervals over cases; the paper's arms first, at most four panels."""
    rows = [row for row in summary.rows if any(row.tasks.values())][:TASK_PANELS]
    if not rows:
        return None
    names = list(rows[0].tasks)
    size = (2.0 + 2.3 * len(rows), 0.9 + 0.19 * len(names))
    figure, panels = subplots(*size, len(rows), sharey=True, sharex=True)
    for axes, row in zip(panels, rows, strict=True):
        for place, task in enumerate(reversed(names)):
            if row.tasks[task] is not None:
                _interval_line(axes, place, row.tasks[task], _colour(summary, row.arm), by_seed=False)
        _about_zero(axes, list(reversed(names)))
        axes.set(title=f"{row.arm} against {summary.baseline}", xlabel="success, points")
    return figure


def information(summary: Summary) -> Figure | None:
    """Mutual information of task and first-choice expert by layer: the mean of the seeds, and each seed."""
    arms = [arm for arm in _shown(summary) if all(run.routing for run in summary.collection.arms[arm].values())]
    if not arms:
        return None
    figure, (axes,) = subplots(8.5, 3.2)
    means, deepest = {}, 0
    for place, arm in enumerate(arms):
        rows = [run.routing.mutual_information_L for run in summary.collection.arms[arm].values() if run.routing]
        count = min(len(row) for row in rows)
        values = np.array([row[:count] for row in rows])
        shift = (place - (len(arms) - 1) / 2) * min(0.12, 0.7 / len(arms))
        layers = np.arange(1, count + 1) + shift
        colour = _colour(summary, arm)
        axes.scatter(np.tile(layers, len(rows)), values.ravel(), s=9, color=colour, alpha=0.45, linewidths=0)
        means[arm] = axes.scatter(layers, values.mean(axis=0), s=150, marker="_", color=colour, linewidths=2)
        deepest = max(deepest, count)
    grid(axes)
    axes.set(xticks=range(1, deepest + 1), xlim=(0.5, deepest + 0.5), ylim=(0, 1.08 * axes.dataLim.ymax))
    axes.set(xlabel="mixture layer", ylabel="task and expert, nats")
    legend_below(figure, means, markerscale=0.6)
    return figure


DRAWN: dict[str, Callable[[Summary], Figure | None]] = {
    "differences": differences,
    "convergence": convergence,
    "timesteps": timesteps,
    "tasks": tasks,
    "alignment": alignment,
    "information": information,
}


def _panels(summary: Summary, panels: Sequence[tuple[str, Curves, bool]]) -> Figure | None:
    """One panel for each curve, one line for each arm. None when no arm has any of the curves."""
    arms = _shown(summary)
    found = [
        (title, logarithmic, {arm: runs for arm in arms if (runs := _runs(summary, arm, curve))})
        for title, curve, logarithmic in panels
    ]
    if not any(curves for _, _, curves in found):
        return None
    figure, row = subplots(3.6 * len(panels), 3.2, len(panels))
    lines: dict[str, Any] = {}
    for axes, (title, logarithmic, curves) in zip(row, found, strict=True):
        for arm, (steps, values) in curves.items():
            lines[arm] = _band(axes, steps, values, _colour(summary, arm))
        axes.set(title=title, xlabel="step")
        if logarithmic and curves:
            _logarithmic(axes)
        grid(axes)
    legend_below(figure, lines)
    return figure


def _runs(summary: Summary, arm: str, curve: Curves) -> tuple[np.ndarray, np.ndarray] | None:
    """The curve of every seed at the steps that all have; None when a seed lacks it."""
    series = [dict(zip(*curve(run), strict=True)) for run in summary.collection.arms[arm].values()]
    steps = sorted(set.intersection(*(set(points) for points in series)))
    if not steps:
        return None
    return np.array(steps), np.array([[points[step] for step in steps] for points in series])


def _validated(result: Result, name: str) -> tuple[list[float], list[float]]:
    points = [(record["step"], record[name]) for record in result.curve if name in record]
    return [step for step, _ in points], [value for _, value in points]


def _smooth(steps: Sequence[float], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """A centred mean over a fifth of the points, because the values of single steps vary with their batch."""
    reach = int(len(values) * SMOOTHED_SHARE / 2)
    means = [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]
    return steps, means


def _shown(summary: Summary) -> list[str]:
    """Arms to draw: the paper's and the baseline, then others until the colours run out."""
    arms = [row.arm for row in summary.rows]
    first = [arm for arm in arms if arm in PAPER_ARMS or arm == summary.baseline]
    return (first + [arm for arm in arms if arm not in first])[: len(SERIES)]


def _colour(summary: Summary, arm: str) -> str:
    shown = _shown(summary)
    return SERIES[shown.index(arm)] if arm in shown else SOFT


def _pairs(summary: Summary, arm: str) -> list[tuple[Result, Result]]:
    arms = summary.collection.arms
    seeds = summary.collection.common_seeds(arm, summary.baseline)
    return [(arms[arm][seed], arms[summary.baseline][seed]) for seed in seeds]


def _band(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str) -> Any:
    """The mean over seeds as a line, their range as a band."""
    if len(values) > 1:
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(steps) < 16 else ""
    return axes.plot(steps, values.mean(axis=0), color=colour, linewidth=1.5, marker=marker, markersize=3)[0]


def _interval_line(axes: Any, place: int, estimate: Estimate | None, colour: str, *, by_seed: bool) -> None:
    if estimate is None:
        return
    if by_seed and estimate.over_seeds is not None:
        axes.plot(
            [100 * bound for bound in estimate.over_seeds.bounds], [place] * 2, color=colour, linewidth=1, alpha=0.6
        )
    if estimate.over_cases is not None:
        width = 3.5 if by_seed else 1.6
        bounds = [100 * bound for bound in estimate.over_cases.bounds]
        axes.plot(bounds, [place] * 2, color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot([100 * estimate.value], [place], "o", color=colour, markersize=5.5 if by_seed else 3.5)
    if by_seed:
        points = [100 * value for value in estimate.by_seed]
        axes.plot(points, [place - 0.24] * len(points), "|", color=colour, markersize=5)


def _about_zero(axes: Any, names: Sequence[str]) -> None:
    """Label the rows, and draw a line at no difference."""
    axes.axvline(0, **ZERO)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.6, len(names) - 0.4))
    grid(axes, "x")


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=8))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
