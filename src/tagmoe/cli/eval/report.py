"""`tagmoe eval report`: the scores of runs as a page and as tables."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.eval.options import Bench, Runs
from tagmoe.cli.options import MOST_CASES, AsJson, FixedSeed, Force
from tagmoe.cli.output import check_output_folder, log, print_result, typed_command, write_folder
from tagmoe.errors import UsageError

Draws = Annotated[int, typer.Option(min=100, max=100_000, help="Draws of the bootstrap.")]


def report(
    bench: Bench,
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, and tables beside it.")],
    baseline: Annotated[
        str | None, typer.Option(help="Editor that differences are to, by its name; by default the first run's.")
    ] = None,
    by_task: Annotated[
        str | None, typer.Option(help="Measure of the radar; by default the first of which more is better.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, max=MOST_CASES, help="Cases shown side by side.")] = 12,
    draws: Draws = 2000,
    seed: FixedSeed = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs on one offline page: means with intervals, differences, tasks, statuses, pictures, provenance.

    Example: tagmoe eval report bench copy mine --out report
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.comparison.page import FILES, PAGE, write_report
    from tagmoe.evaluate.comparison.summary import summarise
    from tagmoe.evaluate.run_folder import read_run

    check_output_folder(out, force=force, ours=FILES)
    prepared = read_prepared(bench)
    opened = [read_run(folder, prepared) for folder in runs]
    summary = summarise(prepared, opened, baseline=baseline, draws=draws, seed=seed)
    if by_task is not None and by_task not in summary.measures:
        raise UsageError(f"--by-task is {by_task!r}; give one of {', '.join(summary.measures)}.")
    about = {
        "command": typed_command("tagmoe eval report"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    data = write_folder(out, partial(write_report, summary, pictures=pictures, about=about, by_task=by_task))
    from tagmoe.evaluate.comparison.tables import known, shown

    for name, editor in zip(summary.names, summary.editors, strict=True):
        figures = [f"{key} {shown(editor.figures[key].micro, one)}" for key, one in list(known(summary).items())[:3]]
        log(f"  {name}: {', '.join(figures)}")
    page = out / PAGE
    print_result({"report": str(page), **data}, str(page), as_json=as_json)
