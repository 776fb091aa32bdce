"""`tagmoe data validate`: check a store, put unsound records into quarantine, and report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.assigned import assigned
from tagmoe.cli.options import MOST_PROCESSES, AsJson, Force
from tagmoe.cli.output import check_output_file, log, print_result, write_text
from tagmoe.cli.progress import count_bar
from tagmoe.report.printable import one_line
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.data.check.validate import Summary


def validate(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or object-store address of a store.")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="Processes; by default one for each processor core.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Check all records again, not only unchecked ones.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--check", metavar="NAME=VALUE", help="Limit of a check, or on or off; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Page to write (.html), with pictures.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Check pictures, pairs, instructions, tags and ids; exits with 1 when anything was found.

    The column `quarantine` names the checks that a record failed; rows in it are not trained on. After a kill, the same
    command resumes.
    Example: tagmoe data validate data/omniedit --check tiny=256 --check "single colour=off" --out checks.html
    """
    if out is not None:
        check_output_file(out, force=force, extensions=(".html",), kind="page")
    from tagmoe.data.check.checks import Policy
    from tagmoe.data.check.validate import summarise
    from tagmoe.data.check.validate import validate as run
    from tagmoe.data.store.store import Store

    policy = Policy.of(assigned(settings, "--check"))
    opened = Store.open(store)
    with count_bar("checking") as progress:
        checked = run(
            opened, workers=workers or len(os.sched_getaffinity(0)), again=again, policy=policy, progress=progress
        )
    summary = summarise(opened)
    log(f"checked now: {counted(checked, 'record')}; before: {summary.records - checked:,}.")
    if out is not None:
        from tagmoe.data.check.page import render

        write_text(render(opened, summary), out)
        log(f"what was found, with pictures: {out}")
    data = {
        "store": store,
        "checked": checked,
        "records": summary.records,
        "unsound": summary.unsound,
        "limits": dict(policy.limits),
        "checks": {
            name: {
                "records": counts.total(),
                "datasets": dict(sorted(counts.items())),
                "first_ids": [record for _, record in summary.first[name]],
            }
            for name, counts in summary.most_common()
        },
    }
    print_result(data, _text(summary), as_json=as_json)
    if summary.unsound:
        raise typer.Exit(1)


def _text(summary: Summary) -> str:
    from tagmoe.data.check.checks import CHECKS

    lines = [f"unsound: {summary.unsound:,} of {counted(summary.records, 'record')}"]
    for name, counts in summary.most_common():
        lines.append(f"  {name:<18}{counts.total():>8}  {CHECKS[name]}")
        lines += [f"{'':20}{count:>8}  {one_line(dataset)}" for dataset, count in sorted(counts.items())]
        lines.append(f"{'':30}first: {', '.join(record for _, record in summary.first[name])}")
    return "\n".join(lines)
