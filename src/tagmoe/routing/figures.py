"""The bars, lines and points of a routing report, from numbers to SVG text; layers and experts count from 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tagmoe.report.colours import series_colour, text_on
from tagmoe.report.numbers import percent
from tagmoe.report.svg import ACCENT, INK, LINE, SOFT, as_svg, grid, legend_below, quiet, short, subplots
from tagmoe.routing.heatmaps import layer_names
from tagmoe.routing.specialization import MutualInformation
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@as_svg
def information(target: MutualInformation, references: MutualInformation | None) -> Figure:
    """Bars of the mutual information of task and expert by layer; a band shows chance up to its 95th percentile."""
    parts = [("picture being made", target), *([("reference", references)] if references else [])]
    layers = len(target.value_L)
    figure, axes = subplots(min(10, 3.2 * len(parts) + 1.2), 2.8, len(parts), sharey=True)
    for one, (title, found) in zip(axes, parts, strict=True):
        x = np.arange(layers)
        one.bar(x, found.value_L, width=0.62, color=ACCENT, label="measured")
        _chance(one, x, found.permuted_L, found.permuted_high_L)
        for i, value in enumerate(found.value_L):
            one.text(i, value, f"{value:.3f}", ha="center", va="bottom", fontsize=8)
        one.set(xticks=x, xticklabels=layer_names(layers), title=title)
        grid(one)
    axes[0].set_ylabel("nats")
    legend_below(figure)
    return figure


@as_svg
def accuracies(rows: Sequence[tuple[str, float, float, float]]) -> Figure:
    """Bars of accuracy: (name, measured, mean with shuffled labels, its 95th percentile) each."""
    figure, (one,) = subplots(8.5, 1.0 + 0.48 * len(rows))
    y = np.arange(len(rows))
    one.barh(y, [row[1] for row in rows], height=0.55, color=ACCENT, label="measured")
    for i, (_, value, mean, high) in enumerate(rows):
        one.plot([mean, mean], [i - 0.36, i + 0.36], color=INK, lw=1.4, label="shuffled labels" if i == 0 else None)
        one.plot([high, high], [i - 0.36, i + 0.36], color=INK, lw=1.0, ls=":", label="their 95 %" if i == 0 else None)
        one.text(value + 0.01, i, percent(value), va="center", fontsize=8.5)
    one.set(yticks=y, yticklabels=[row[0] for row in rows], xlim=(0, max(1.0, *(row[1] for row in rows))))
    one.set_xticks(np.linspace(0, 1, 6), [percent(v) for v in np.linspace(0, 1, 6)])
    one.invert_yaxis()
    legend_below(figure)
    grid(one, "x")
    return figure


@as_svg
def scatter(coordinates: np.ndarray, shares: np.ndarray, labels: Sequence[str]) -> Figure:
    """Cases in the plane of the first two principal components, coloured by the first tag (or the task)."""
    names = list(dict.fromkeys(labels))
    figure, (one,) = subplots(6.6, 4.4)
    second = coordinates[:, 1] if coordinates.shape[1] > 1 else np.zeros(len(coordinates))
    drawn = []
    for i, name in enumerate(names):
        member = np.array([label == name for label in labels])
        points, colour = (coordinates[member, 0], second[member]), series_colour(i)
        drawn.append(one.scatter(*points, s=16, color=colour, alpha=0.75, lw=0))
    one.set(
        xlabel=f"first component, {percent(shares[0])} of the variance",
        ylabel=f"second, {percent(shares[1])}" if len(shares) > 1 else "",
    )
    one.axhline(0, color=LINE, lw=0.8, zorder=0)
    one.axvline(0, color=LINE, lw=0.8, zorder=0)
    quiet(one)
    if len(names) <= 20:
        figure.legend(drawn, [short(name) for name in names], loc="outside right upper", fontsize=8)
    return figure


@as_svg
def by_timestep(
    timesteps: np.ndarray, values_SLN: np.ndarray, band: tuple[np.ndarray, np.ndarray] | None, level: float, label: str
) -> Figure:
    """One panel for each layer, one line for each expert, from noise (left) to the picture. level: no preference."""
    _, layers, experts = values_SLN.shape
    columns = min(layers, 4)
    lines = -(-layers // columns)
    size = (min(10.0, 2.9 * columns + 0.8), 2.1 * lines + 0.5)
    figure, axes = subplots(*size, columns, lines, sharex=True, sharey=True)
    for unused in axes[layers:]:
        unused.set_visible(False)
    for layer, one in enumerate(axes[:layers]):
        one.axhline(level, color=SOFT, lw=0.8, ls=":")
        for expert in range(experts):
            colour = series_colour(expert)
            one.plot(timesteps, values_SLN[:, layer, expert], color=colour, lw=1.6, label=f"E{expert + 1}")
            if band is not None:
                low, high = (side[:, layer, expert] for side in band)
                one.fill_between(timesteps, low, high, color=colour, alpha=0.18, lw=0)
        span = (max(1.0, float(timesteps.max())), min(0.0, float(timesteps.min())))
        one.set(title=f"layer {layer + 1}", xlim=span)
        grid(one)
    axes[0].set_ylabel(label)
    figure.supxlabel("timestep: 1 is noise, 0 the finished picture", fontsize=8.5, color=SOFT)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


@as_svg
def contrast_bars(rows: Sequence[tuple[str, float, float, float, int]]) -> Figure:
    """Bars of distances between signatures. Each row: (name, mean, low, high, pairs)."""
    figure, (one,) = subplots(8.5, 0.7 + 0.46 * len(rows))
    y = np.arange(len(rows))
    one.barh(y, [row[1] for row in rows], height=0.55, color=ACCENT)
    for i, (_, value, low, high, _pairs) in enumerate(rows):
        one.plot([low, high], [i, i], color=INK, lw=1.4)
        one.text(high, i, f"  {value:.4f}", va="center", fontsize=8.5)
    one.set(
        yticks=y,
        yticklabels=[f"{row[0]} ({counted(row[4], 'pair')})" for row in rows],
        xlim=(0, 1.18 * max(row[3] for row in rows) or 1.0),
        xlabel="total variation between signatures, mean over layers",
    )
    one.invert_yaxis()
    grid(one, "x")
    return figure


@as_svg
def variance_bars(share: dict[str, float], by_chance: dict[str, float]) -> Figure:
    """Stacked bars of the sources' shares of the variance: measured, and expected by chance."""
    names = list(share)
    shades = [series_colour(i) for i in range(len(names) - 1)] + [LINE]
    figure, (one,) = subplots(8.5, 1.55)
    for row, parts in enumerate((share, by_chance)):
        left = 0.0
        for name, shade in zip(names, shades, strict=True):
            one.barh(row, parts[name], left=left, height=0.6, color=shade, label=name if row == 0 else None)
            if parts[name] > 0.05:
                colour = INK if shade == LINE else text_on(shade)
                one.text(left + parts[name] / 2, row, percent(parts[name]), ha="center", va="center", color=colour)
            left += parts[name]
    one.set(yticks=[0, 1], yticklabels=["measured", "by chance"], xticks=[], xlim=(0, 1))
    one.invert_yaxis()
    quiet(one)
    legend_below(figure)
    return figure


def _chance(axes: Axes, x: np.ndarray, mean: np.ndarray, high: np.ndarray) -> None:
    for i in range(len(x)):
        left, right = x[i] - 0.4, x[i] + 0.4
        axes.plot([left, right], [mean[i]] * 2, color=INK, lw=1.4, label="shuffled tasks" if i == 0 else None)
        axes.plot([left, right], [high[i]] * 2, color=INK, lw=1.0, ls=":", label="their 95 %" if i == 0 else None)
