"""`tagmoe data stats`: what a store holds, as a table and as bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_file, print_result, write_text
from tagmoe.cli.progress import count_bar
from tagmoe.report.printable import one_line
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.data.statistics import Statistics

SHOWN = 20
"""Most values of a group in the table and the plot. --json has all of them."""


def stats(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to read.")],
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Bars to write.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Count the records of a store by data set, task, tag, size, licence, split, operation and quarantine.

    Example: tagmoe data stats my/store --plot stats.svg
    """
    if plot is not None:
        check_output_file(plot, force=force, extensions=(".svg",), kind="SVG")
    from tagmoe.data.statistics import statistics
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with count_bar("count") as progress:
        found = statistics(opened, progress=progress)
    if plot is not None:
        write_text(draw(found), plot)
    data = {
        "store": store,
        "records": found.records,
        "groups": found.groups,
        "imports": list(found.imports),
        "plot": None if plot is None else str(plot),
    }
    print_result(data, "\n".join([f"{store}: {counted(found.records, 'record')}", *_table(found)]), as_json=as_json)


def draw(found: Statistics) -> str:
    """The counts as SVG: a panel of bars for each group."""
    from tagmoe.report.svg import ACCENT, quiet, styled, subplots, svg_text

    groups = {name: _shown(counts) for name, counts in found.groups.items() if counts}
    heights = [0.5 + 0.24 * len(counts) for counts in groups.values()]
    with styled():
        height = sum(heights) + 0.3 * len(heights) + 0.2
        figure, every = subplots(8.0, height, rows=len(groups) or 1, height_ratios=heights or None)
        for axes, (name, counts) in zip(every, groups.items(), strict=False):
            values = list(counts.values())
            axes.barh(range(len(values)), values, height=0.7, color=ACCENT)
            for place, value in enumerate(values):
                axes.text(value, place, f" {value:,}", va="center", fontsize=8)
            axes.set_yticks(range(len(values)), [label[:40] for label in counts])
            axes.set(
                xlim=(0, 1.12 * max(values)), xticks=[], ylim=(len(values) - 0.4, -0.6), title=f"records by {name}"
            )
            quiet(axes)
        if not groups:
            every[0].remove()
            figure.text(0.5, 0.5, "no records", ha="center")
        return svg_text(figure)


def _table(found: Statistics) -> list[str]:
    lines = []
    for name, counts in found.groups.items():
        shown = _shown(counts)
        width = max((len(value) for value in shown), default=0)
        lines += ["", name]
        for value, count in shown.items():
            share = count / max(1, found.records)
            lines.append(f"  {value:<{width}}  {count:>10,}  {share:6.1%}")
    if found.imports:
        lines += ["", "imports"]
    for note in found.imports:
        state = "finished" if note["finished"] else "not finished"
        skipped = sum(note["skipped"].values())
        lines.append(
            f"  {note['source']}: {note['accepted']:,} of {counted(note['rows'], 'row')}, {skipped:,} skipped, {state}"
        )
        lines += [f"    {count:,} {reason}" for reason, count in sorted(note["skipped"].items())]
    return lines


def _shown(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent values, and the sum of the others."""
    items = [(one_line(name), count) for name, count in counts.items()]
    rest = items[SHOWN:]
    return dict(items[:SHOWN]) | ({f"({len(rest)} others)": sum(count for _, count in rest)} if rest else {})
