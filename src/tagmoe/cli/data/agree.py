"""`tagmoe data agree`: how well two annotators of a store agree, and which rows are worth a look."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tagmoe.cli.data.named_numbers import named_numbers
from tagmoe.cli.options import MOST_ROWS, AsJson, Force
from tagmoe.cli.output import check_output_folder, log, print_result, write_folder
from tagmoe.cli.progress import count_bar
from tagmoe.extras import require
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.annotation.quality.agree import AgreeReport
    from tagmoe.intervals import Interval


def agree(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or object-store address of a store.")],
    a: Annotated[str, typer.Option("--a", metavar="ANNOTATOR", help="One annotator; 'tags' is what training reads.")],
    b: Annotated[str, typer.Option("--b", metavar="ANNOTATOR", help="The other annotator.")],
    also: Annotated[
        list[str] | None, typer.Option(metavar="ANNOTATOR", help="One more annotator, for alpha of all; repeatable.")
    ] = None,
    gold: Annotated[
        Literal["a", "b"] | None, typer.Option(help="The side whose tags are right; adds precision, recall and F1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write: a page with pictures, and tables.")
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_ROWS, help="Rows whose pictures are looked at, for pixel evidence and label issues."
        ),
    ] = 2000,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Exit with 1 if a figure is lower, such as alpha=0.67; repeatable."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare two annotators: kappa by tag, alpha of the sets, broken rules, inverses, pixel evidence, label issues.

    Intervals resample root pictures. Example: tagmoe data agree my/store --a qwen --b tags --out agreement
    """
    require("vlm", "cleanlab", "sklearn", purpose="The quality of annotations")
    from tagmoe.annotation.quality.agree import agree as run
    from tagmoe.annotation.quality.agree_tables import FIGURES, FILES, PAGE, data_of, figures_of, write_report

    advice = f"give each of {', '.join(FIGURES)} at most once, such as alpha=0.67"
    limits = named_numbers(fail_under or (), "--fail-under", advice, FIGURES)
    if out is not None:
        check_output_folder(out, force=force, ours=FILES)
    from tagmoe.data.store.store import Store

    opened = Store.open(store)
    with count_bar("comparing") as progress:
        report = run(opened, a, b, also=also or (), gold=gold, pictures=pictures, progress=progress)
    if out is not None:
        write_folder(out, partial(write_report, opened, report))
        log(f"tables, and the rows to look at with pictures: {out / PAGE}")
    if report.by_definition:
        log(
            f"in {counted(report.by_definition, 'row')} the canonical tags came from the other annotator, so they "
            "must agree."
        )
    figures = figures_of(report)
    missed = _missed(figures, limits)
    print_result({**data_of(report), "store": store, "missed": missed}, _text(report), as_json=as_json)
    for sentence in missed:
        log(sentence)
    if missed:
        raise typer.Exit(1)


def _missed(figures: dict[str, Interval[float | None]], limits: dict[str, float]) -> list[str]:
    """One sentence for each figure below its limit. An undefined figure is below any limit."""
    missed = []
    for name, limit in limits.items():
        value = figures[name].value if name in figures else None
        if value is None:
            missed.append(f"{name} is not defined for these rows, and should be {limit:g} or more.")
        elif value < limit:
            missed.append(f"{name} is {value:.3f}, below {limit:g}.")
    return missed


def _text(report: AgreeReport) -> str:
    from tagmoe.annotation.quality.agree_page import figure, headline, tiles

    lines = [headline(report)]
    lines += [f"  {tile.value:>8}  {tile.name:<34}{tile.beside}" for tile in tiles(report)]
    gold = report.agreement.gold is not None
    lines.append(f"{'':24}{report.a.name[:9]:>10}{report.b.name[:9]:>10}  kappa{'':18}AC1{'   F1' if gold else ''}")
    for tag in report.agreement.tags:
        if tag.both or tag.only_a or tag.only_b:
            ac1, f1 = tag.ac1.value, None if tag.f1 is None else tag.f1.value
            line = f"  {tag.tag:<22}{tag.share_a:>10.1%}{tag.share_b:>10.1%}  {figure(tag.kappa):<23}"
            lines.append(f"{line}{'' if ac1 is None else f'{ac1:.2f}'}{'' if f1 is None else f'  {f1:.2f}'}")
    for side in report.sides:
        issues = 0 if side.issues is None else len(side.issues.issues)
        lines.append(f"{side.name}: a rule is broken in {side.rules.faulty} of {counted(side.rules.rows, 'row')}")
        looked = f"of {len(report.looked_at)} looked at, pixels speak against {side.evidence.faulty}"
        lines += [f"  {looked}, a probe doubts {issues}"] if report.looked_at else []
    return "\n".join(lines)
