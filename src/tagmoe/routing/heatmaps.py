"""The heat maps of a routing report, each a function from numbers to SVG text; layers and experts count from 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tagmoe.intervals import Interval
from tagmoe.report.colours import text_on
from tagmoe.report.svg import CARD, INK, as_svg, quiet, short, subplots
from tagmoe.routing.case_routing import TaskRouting
from tagmoe.routing.specialization import MutualInformation, deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.34
# One heat map of interventions: title, values (rows, N), which values are certain, "change" or "success", format.
SwitchPanel = tuple[str, np.ndarray, np.ndarray | None, str, str]


def expert_names(count: int) -> list[str]:
    """E1, E2, ..."""
    return [f"E{n + 1}" for n in range(count)]


def layer_names(count: int) -> list[str]:
    """L1, L2, ...: names of the mixture layers."""
    return [f"L{n + 1}" for n in range(count)]


@as_svg
def utilisation(shares: TaskRouting) -> Figure:
    """Heat maps of one task (Fig. 6 middle), for target and references. The paper's scale from 0 to 100 % is beside the
    deviation from uniform."""
    panels = [("picture being made", shares.target_LN)]
    if shares.references_LN is not None:
        panels.append(("reference", shares.references_LN))
    layers, experts = shares.target_LN.shape
    rows, columns = layer_names(layers), expert_names(experts)
    widest = max(1 - 1 / experts, 1e-9)
    size = (0.5 + 2 * (CELL * 1.25 * experts + 0.3), 0.1 + len(panels) * (0.5 + 0.8 * CELL * layers))
    figure, axes = subplots(*size, 2, len(panels))
    for paper, uniform, (title, values) in zip(axes[::2], axes[1::2], panels, strict=True):
        heat(paper, values, rows, columns, low=0, high=1, scale=100)
        paper.set_title(f"{title}, %", fontsize=8.5, pad=4)
        away = deviation(values)
        heat(uniform, away, [""] * layers, columns, low=-widest, high=widest, write="{:+.0f}", scale=100)
        uniform.set_title("from uniform", fontsize=8.5, pad=4)
    return figure


def overview(shares_by_row: dict[str, np.ndarray], width: float = 10.0) -> str:
    """One heat map of all rows (tasks or tags): deviation from uniform (L, N), layer by layer, numbers in %."""
    values = np.stack([deviation(shares) for shares in shares_by_row.values()])
    return stacked(values, list(shares_by_row), write="{:+.0f}", scale=100, width=width)


@as_svg
def stacked(
    values_RLN: np.ndarray,
    rows: Sequence[str],
    *,
    write: str,
    scale: float,
    width: float = 10.0,
    strong: np.ndarray | None = None,
) -> Figure:
    """Heat maps of all layers side by side, a row for each name. The largest value has the strongest colour."""
    _, layers, experts = values_RLN.shape
    reach = max(float(np.abs(values_RLN).max()), 1e-6)
    width = min(width, 1.8 + CELL * 1.3 * layers * experts)
    numbers = layers * experts <= 24
    figure, axes = subplots(width, 0.6 + 0.235 * len(rows), layers)
    for layer, one in enumerate(axes):
        heat(
            one,
            values_RLN[:, layer],
            rows if layer == 0 else [""] * len(rows),
            expert_names(experts) if experts <= 8 else [""] * experts,
            low=-reach,
            high=reach,
            write=write if numbers else None,
            scale=scale,
            strong=None if strong is None else strong[:, layer],
        )
        one.set_title(f"layer {layer + 1}", pad=4)
    return figure


@as_svg
def task_information(found: MutualInformation) -> Figure:
    """Nats between each task's first choices and those of all cases, by layer; faint below 95 % of shuffled labels."""
    layers = found.task_TL.shape[1]
    figure, (one,) = subplots(2.2 + 0.6 * layers, 0.55 + 0.235 * len(found.tasks))
    heat(
        one,
        found.task_TL,
        found.tasks,
        layer_names(layers),
        low=0,
        high=max(float(found.task_TL.max()), 1e-6),
        write="{:.2f}",
        colours="Blues",
        strong=found.task_TL > found.task_permuted_high_TL,
    )
    return figure


@as_svg
def similarity(tasks: Sequence[str], cosine: np.ndarray) -> Figure:
    """Cosines between tasks as a square heat map, without numbers."""
    side = 1.6 + 0.2 * len(tasks)
    figure, (one,) = subplots(side + 0.9, side)
    heat(one, cosine, tasks, tasks, low=-1, high=1, write=None)
    one.tick_params(axis="x", labelrotation=90, labelcolor=INK)
    one.set_aspect("equal")
    bar = figure.colorbar(one.collections[0], ax=one, shrink=0.5, ticks=[-1, 0, 1])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def concentration(panels: Sequence[tuple[str, Interval[np.ndarray]]]) -> str:
    """Mask concentration (L, N) of each panel, its logarithm coloured about 1; faint where the interval holds 1."""
    titled = [(f"{title} (n {found.n})", found) for title, found in panels]
    return _intervals(titled, lambda value: np.log2(np.maximum(value, 1e-3)), null=1, reach=0.5, write="{:.2f}")


def differences(panels: Sequence[tuple[str, Interval[np.ndarray]]]) -> str:
    """Differences of concentration (L, N) of each panel about 0; faint where the interval holds 0."""
    return _intervals(panels, lambda value: value, null=0, reach=0.1, write="{:+.2f}")


@as_svg
def _intervals(
    panels: Sequence[tuple[str, Interval[np.ndarray]]],
    coloured: Callable[[np.ndarray], np.ndarray],
    *,
    null: float,
    reach: float,
    write: str,
) -> Figure:
    """A heat map (L, N) for each panel; `coloured` gives 0 for `null`; reach: the least that has full colour."""
    layers, experts = panels[0][1].value.shape
    reach = max(reach, *(float(np.abs(coloured(one.value)).max()) for _, one in panels))
    figure, axes = subplots(0.5 + len(panels) * (0.52 * experts + 0.4), 0.65 + 0.38 * layers, len(panels))
    for i, (one, (title, found)) in enumerate(zip(axes, panels, strict=True)):
        heat(
            one,
            coloured(found.value),
            layer_names(layers) if i == 0 else [""] * layers,
            expert_names(experts),
            low=-reach,
            high=reach,
            write=write,
            strong=found.excludes(null),
            written=found.value,
        )
        one.set_title(title, pad=4, fontsize=9)
    return figure


@as_svg
def switches(panels: Sequence[SwitchPanel], rows: Sequence[str]) -> Figure:
    """Heat maps of interventions side by side. Those of one kind share a scale. Shares are written times 100."""
    experts = panels[0][1].shape[1]
    width = min(11.0, 1.0 + len(panels) * (0.5 * experts + 0.45))
    figure, axes = subplots(width, 0.75 + 0.36 * len(rows), len(panels))
    for i, (one, (title, values, strong, kind, write)) in enumerate(zip(axes, panels, strict=True)):
        reach = max(1e-6, *(float(np.abs(other[1]).max()) for other in panels if other[3] == kind))
        low, colours = (0.0, "Blues") if kind == "change" else (-reach, "coolwarm_r")
        names = rows if i == 0 else [""] * len(rows)
        heat(
            one,
            values,
            names,
            expert_names(experts),
            low=low,
            high=reach,
            write=write,
            scale=100,
            colours=colours,
            strong=strong,
        )
        one.set_title(title, pad=4, fontsize=9)
    return figure


def heat(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    low: float,
    high: float,
    write: str | None = "{:.0f}",
    scale: float = 1.0,
    colours: str = "coolwarm",
    strong: np.ndarray | None = None,
    written: np.ndarray | None = None,
) -> None:
    """A heat map with its numbers (times `scale`) in the cells. Cells where `strong` is false are written faintly.

    written: numbers to write, if they differ from the values that give the colours.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, to_hex

    norm, cmap = Normalize(low, high, clip=True), colormaps[colours]
    axes.pcolormesh(values, cmap=cmap, norm=norm, edgecolor=CARD, linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns)) + 0.5, [short(name) for name in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [short(name) for name in rows])
    axes.xaxis.tick_top()
    quiet(axes)
    if write is None:
        return
    for y, x in np.ndindex(values.shape):
        if np.isfinite(values[y, x]):
            number = scale * float((values if written is None else written)[y, x])
            axes.text(
                x + 0.5,
                y + 0.5,
                _number(write, number),
                ha="center",
                va="center",
                fontsize=7.5,
                color=text_on(to_hex(cmap(norm(values[y, x])))),
                alpha=1.0 if strong is None or strong[y, x] else 0.45,
            )


def _number(write: str, value: float) -> str:
    """The text of a number in a cell. Numbers that round to zero get no sign."""
    text = write.format(value)
    return text.lstrip("+-") if float(text) == 0 else text
