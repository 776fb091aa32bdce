"""`tagmoe eval generate`: the outputs of one editor for the cases of a benchmark."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.eval.editors import EditorOptions
from tagmoe.cli.eval.options import Bench, Limit, Shard, Tasks, log_failures, names_of, shard_of
from tagmoe.cli.eval.workers import GenerateShard, WorkerOptions
from tagmoe.cli.options import AsJson, takes
from tagmoe.cli.output import log, print_result, typed_command
from tagmoe.cli.progress import lasting_bar
from tagmoe.sentences import counted


@dataclass(frozen=True)
class Options(WorkerOptions, EditorOptions):
    """The editor, and where it works."""


@takes(Options)
def generate(
    bench: Bench,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; one that is there goes on.")],
    tasks: Tasks = None,
    limit: Limit = None,
    shard: Shard = "1/1",
    as_json: AsJson = False,
    *,
    options: Options,
) -> None:
    """Make the outputs of an editor for a benchmark, and keep each at once; run it again after a stop.

    A case that fails has no picture; it is listed, and the exit code is 1. The next run asks for it again.
    Example: tagmoe eval generate bench --editor copy --out copy
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.generation import collect
    from tagmoe.evaluate.run_folder import read_run

    part, names = shard_of(shard), names_of(tasks)
    options.check_workers(part)
    options.check()
    prepared = read_prepared(bench)
    chosen = prepared.chosen(names, limit)[part[0] - 1 :: part[1]]
    work = GenerateShard(
        bench.resolve(),
        out.resolve(),
        options,
        tasks,
        limit,
        options.workers,
        typed_command("tagmoe eval generate"),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    started = time.perf_counter()
    with lasting_bar("generating", len(chosen)) as done:
        if options.is_one_process:
            made = work.make(part, done)
        else:
            new = options.run(work, done)
            made = replace(collect(prepared, work.out, tasks=names, limit=limit), new=new)
    seconds = round(time.perf_counter() - started, 3)
    listed = ", ".join(f"{count:,} {status}" for status, count in made.counts.items())
    log(f"{counted(made.answers, 'case')}: {listed}; {made.new:,} asked now, in {seconds:.1f} s")
    failures = [(answer.id, answer.status, answer.reason) for answer in made.failures]
    log_failures(failures)
    data = {
        "run": str(out),
        "key": read_run(work.out).facts.key,
        "cases": len(made.answers),
        "new": made.new,
        "statuses": made.counts,
        "failures": [dict(zip(("id", "status", "reason"), one, strict=True)) for one in failures],
        "digest": made.digest,
        "seconds": seconds,
    }
    print_result(data, str(out), as_json=as_json)
    if failures:
        raise typer.Exit(1)
