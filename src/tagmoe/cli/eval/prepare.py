"""`tagmoe eval prepare`: the cases of a benchmark in one normalised folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.assigned import assigned
from tagmoe.cli.eval.options import log_failures
from tagmoe.cli.options import MOST_CASES, AsJson, Force
from tagmoe.cli.output import check_output_folder, log, new_folder, print_result
from tagmoe.cli.progress import count_bar
from tagmoe.sentences import counted


def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK",
            help="Name of a benchmark (`tagmoe eval list`), or a YAML file that describes one.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: manifest, cases and their pictures.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Folder, zip or file, as it was downloaded; with --revision a data set of the hub (owner/name).",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the hub's data set; it is downloaded.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of this benchmark; see `tagmoe eval list`."),
    ] = None,
    cases: Annotated[
        int | None, typer.Option(min=1, max=MOST_CASES, help="TagWorld: cases of each task; by default 16.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**62, help="TagWorld: seed of the cases.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You may use the data set under its licence.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the cases of a benchmark as one normalised folder, from its published files.

    Rows that give no case are listed, and the exit code is 1. Example: tagmoe eval prepare tagworld --out bench
    """
    from tagmoe.evaluate.benchmarks.benchmark import prepare as write
    from tagmoe.evaluate.benchmarks.cases import FILES
    from tagmoe.evaluate.benchmarks.registry import open_benchmark

    check_output_folder(out, force=force, ours=FILES)
    benchmark, found = open_benchmark(
        name,
        source,
        per_task=cases,
        seed=seed,
        accepted=accept_licence,
        revision=revision,
        options=assigned(settings, "--set"),
    )
    origin = {} if found is None else {"repository": found.repository, "revision": found.revision}
    with new_folder(out) as folder, count_bar("preparing") as done:
        manifest = write(benchmark, folder, **origin, on_rows=done)
    if manifest.revision is not None:
        log(f"{manifest.repository} at {manifest.revision}")
    not_chosen = manifest.settings.get("not_chosen", {})
    if not_chosen:
        log("not asked for: " + ", ".join(f"{count:,} of {why}" for why, count in not_chosen.items()))
    log(f"{counted(manifest.cases, 'case')} of {counted(manifest.tasks, 'task')}; licence: {manifest.licence}")
    if manifest.left_out:
        log(f"{counted(manifest.left_out, 'row')} left out:")
        log_failures([(f"row {one.row} {one.id}".rstrip(), "left out", one.reason) for one in manifest.left_out])
    print_result({"output": str(out), **manifest.model_dump()}, str(out), as_json=as_json)
    if manifest.left_out:
        raise typer.Exit(1)
