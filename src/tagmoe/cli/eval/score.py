"""`tagmoe eval score`: the metrics of the outputs of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from tagmoe.cli.eval.metrics import MetricOptions
from tagmoe.cli.eval.options import Bench, Limit, Runs, Shard, Tasks, log_failures, names_of, shard_of
from tagmoe.cli.eval.workers import ScoreShard, WorkerOptions
from tagmoe.cli.models import quiet_libraries
from tagmoe.cli.options import AsJson, takes
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import lasting_bar
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.evaluate.scoring import Scored


@dataclass(frozen=True)
class Options(WorkerOptions, MetricOptions):
    """What to score by, and where."""


@takes(Options)
def score(
    bench: Bench,
    runs: Runs,
    tasks: Tasks = None,
    limit: Limit = None,
    shard: Shard = "1/1",
    as_json: AsJson = False,
    *,
    options: Options,
) -> None:
    """Score the outputs of runs, and keep each score at once; run it again after a stop.

    Cases without an output are listed, and the exit code is 1. Example: tagmoe eval score bench copy mine
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.run_folder import read_run
    from tagmoe.evaluate.scoring import score as run_metrics

    part, names = shard_of(shard), names_of(tasks)
    options.check_workers(part)
    prepared = read_prepared(bench)
    if options.weights:
        quiet_libraries()
    made = options.make(prepared)
    total = len(prepared.chosen(names, limit)[part[0] - 1 :: part[1]])
    opened = [read_run(folder, prepared) for folder in runs]
    data = {}
    has_failed = False
    for run in opened:
        with lasting_bar(f"scoring {run.folder.name}", total) as done:
            new = 0
            if not options.is_one_process:
                chosen = options.of_metrics()
                work = ScoreShard(bench.resolve(), run.folder.resolve(), chosen, tasks, limit, options.workers)
                new = options.run(work, done)
            # Of shards that are done this joins the files.
            scored = run_metrics(prepared, run, made, tasks=names, limit=limit, shard=part, on_cases=done)
        _log(str(run.folder), scored, total)
        has_failed = has_failed or bool(scored.failed)
        data[str(run.folder)] = {
            "editor": run.name,
            "scored": {name: len(rows) for name, rows in scored.scores.items()},
            "new": scored.new + new,
            "resized": scored.resized,
            "statuses": scored.counts,
            "failures": [{"id": one.id, "status": one.status, "reason": one.reason} for one in scored.failed],
            "digest": scored.digest,
        }
    print_result({"runs": data}, "\n".join(str(folder) for folder in runs), as_json=as_json)
    if has_failed:
        raise typer.Exit(1)


def _log(name: str, scored: Scored, total: int) -> None:
    with_score = max((len(rows) for rows in scored.scores.values()), default=0)
    listed = "".join(f", {count:,} {status}" for status, count in scored.counts.items())
    sizes = f"; {counted(scored.resized, 'output')} of another size resized" if scored.resized else ""
    log(f"{name}: {with_score:,} of {counted(total, 'case')} scored{listed}{sizes}")
    log_failures([(one.id, one.status, one.reason) for one in scored.failed])
