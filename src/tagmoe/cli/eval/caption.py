"""`tagmoe eval caption`: a vision-language model writes the captions that CLIP-cap compares with."""

from __future__ import annotations

import typer

from tagmoe.cli.eval.options import Bench, Limit, Tasks, log_failures, names_of
from tagmoe.cli.options import AsJson
from tagmoe.cli.output import log, print_result
from tagmoe.cli.progress import lasting_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, Pixels, ServedModel, Timeout, open_vlm
from tagmoe.sentences import counted


def caption(
    bench: Bench,
    endpoints: Endpoints = None,
    model: ServedModel = None,
    tasks: Tasks = None,
    limit: Limit = None,
    pixels: Pixels = 1024 * 1024,
    concurrency: Concurrency = 64,
    timeout: Timeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Have a model write captions of the right answers of cases that have none; run it again after a stop.

    Do it before outputs are generated: a case with a new caption is another case. Without a usable caption a case is
    listed, and the exit code is 1. Example: tagmoe eval caption bench --endpoint URL --model NAME
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.captions import caption_targets

    names = names_of(tasks)
    total = len(read_prepared(bench, captions=False).chosen(names, limit))
    vlm = open_vlm(endpoints or [], model, concurrency=concurrency, timeout=timeout)
    with lasting_bar("captioning", total) as done:
        made = caption_targets(
            bench, vlm, tasks=names, limit=limit, pixels=pixels, in_flight=concurrency, on_cases=done
        )
    log(
        f"{counted(made.captions, 'caption')} by {vlm.model}; of {counted(total, 'case')} {sum(made.asked.values()):,} "
        f"asked now, {made.known:,} known, {made.had:,} with a caption of the data set, "
        f"{made.not_applicable:,} without a picture to describe"
    )
    log_failures(list(made.failed))
    data = {
        "benchmark": str(bench),
        "model": vlm.model,
        "captions": made.captions,
        "asked": dict(made.asked),
        "known": made.known,
        "had": made.had,
        "not_applicable": made.not_applicable,
        "failures": [{"id": one, "status": status, "reason": reason} for one, status, reason in made.failed],
        "digest": made.digest,
    }
    print_result(data, str(bench), as_json=as_json)
    if made.failed:
        raise typer.Exit(1)
