"""`tagmoe ablation`: the arms of the paper's ablation (Table 4), and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_folder, give, new_folder, say

ablation = typer.Typer(help="Run the arms of the paper's ablation, and report what they show.", no_args_is_help=True)


@ablation.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results: ARM/seed-S/result.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, JSON, CSV, figures.")],
    arms: Annotated[
        str | None, typer.Option(help="Only these, with commas between: dense,moe. By default all there are.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="The arm that differences are taken to.")] = "moe",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare arms over seeds on the same cases: means, paired differences with intervals, and the paper's claims."""
    from tagmoe.ablation.collection import read_collection
    from tagmoe.ablation.report import FILES, write_report
    from tagmoe.ablation.table import SUCCESS, phrase, summarise

    check_output_folder(out, force=force, ours=FILES)
    wanted = None if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    summary = summarise(read_collection(folder, arms=wanted), baseline)
    with new_folder(out) as partial:
        data = write_report(summary, partial)
    for row in summary.rows:
        if row.arm != baseline:
            say(f"  {row.arm:<20}{phrase(row.differences['success'], SUCCESS)}")
    page = out / "report.html"
    give({"report": str(page), **data}, str(page), as_json=as_json)
