"""`tagmoe eval prepare`: the cases of a benchmark in one normalised folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.eval.options import log_failures
from tagmoe.cli.options import MOST_CASES, AsJson, Force
from tagmoe.cli.output import check_output_folder, log, new_folder, print_result
from tagmoe.sentences import counted


def prepare(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Name of a benchmark; see `tagmoe eval list`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: manifest, cases and their pictures.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder or zip with the published files, as they were downloaded.")
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

    benchmark = open_benchmark(name, source, per_task=cases, seed=seed, accepted=accept_licence)
    check_output_folder(out, force=force, ours=FILES)
    with new_folder(out) as folder:
        manifest = write(benchmark, folder)
    log(f"{counted(manifest.cases, 'case')} of {counted(manifest.tasks, 'task')}; licence: {manifest.licence}")
    if manifest.left_out:
        log(f"{counted(manifest.left_out, 'row')} left out:")
        log_failures([(f"row {one.row} {one.id}".rstrip(), "left out", one.reason) for one in manifest.left_out])
    print_result({"output": str(out), **manifest.model_dump()}, str(out), as_json=as_json)
    if manifest.left_out:
        raise typer.Exit(1)
