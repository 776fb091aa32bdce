"""`tagmoe demo`: edit test cases of TagWorld with a model, judge them, write the report."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.models import check_model, load_model, model_name
from tagmoe.cli.options import MOST_CASES, AsJson, Cfg, FixedSeed, Force, Model, Steps, Threads
from tagmoe.cli.output import check_output_folder, log, print_result, typed_command, write_folder
from tagmoe.cli.progress import lasting_bar

if TYPE_CHECKING:
    from tagmoe.evaluate.tagworld import TagWorldScores

FILES = ("report.html", "results.json")
DEFAULT_CASES = 4
UNDIVIDED = (
    "The folder of this model does not say that its training was kept from these cases; it may have seen some of them."
)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html and results.json.")] = Path(
        "demo"
    ),
    cases: Annotated[int, typer.Option(min=1, max=MOST_CASES, help="Cases of each of the 25 tasks.")] = DEFAULT_CASES,
    model: Model = None,
    steps: Steps = None,
    cfg: Cfg = None,
    seed: FixedSeed = 0,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Edit test cases of every task, judge them from their pixels, and write a report of one page."""
    check_output_folder(out, force=force, ours=FILES)
    folder = check_model(model)
    pipeline = load_model(model, threads=threads)
    from tagmoe.evaluate.report import Evaluation, write_report
    from tagmoe.evaluate.tagworld import cases as draw_cases
    from tagmoe.evaluate.tagworld import score
    from tagmoe.evaluate.tagworld_pipeline import edit
    from tagmoe.pipeline.training_range import is_divided_by_content
    from tagmoe.routing.case_routing import record
    from tagmoe.train.recipe import versions

    samples = draw_cases(cases, seed)
    if not is_divided_by_content(folder):
        log(UNDIVIDED)
    started = time.perf_counter()
    read = record if getattr(pipeline.part("transformer").config, "num_moe_blocks", 0) else None
    with lasting_bar("editing", len(samples)) as done:
        edits = edit(pipeline, samples, read=read, on_batch=done, steps=steps, cfg=cfg, seed=seed)
    seconds = time.perf_counter() - started
    evaluation = Evaluation(
        samples=samples,
        images=edits.images,
        scores=score(samples, edits.images),
        routing=edits.routing,
        model=model_name(model),
        versions=versions(),
        seed=seed,
        steps=pipeline.config.default_steps if steps is None else steps,
        cfg=pipeline.config.default_cfg if cfg is None else cfg,
        seconds=round(seconds, 3),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=typed_command("tagmoe demo"),
    )
    data = write_folder(out, partial(write_report, evaluation))
    _table(evaluation.scores)
    report = out / "report.html"
    print_result({"report": str(report), **data}, str(report), as_json=as_json)


def _table(scores: TagWorldScores) -> None:
    """The scores for people: stdout holds only the result."""
    for task in scores.tasks:
        unchanged = "" if task.unchanged is None else f"{task.unchanged:>6.0%} unchanged"
        log(f"  {task.task:<16}{task.success:>5.0%} of {task.n} succeed {unchanged}".rstrip())
    share = scores.success
    log(f"success {share.value:.0%} of {share.n} (95 % interval {share.low:.0%} to {share.high:.0%})")
    log(f"the edit is done, though perhaps not all the rest is as it was: {scores.edit_done.value:.0%}")
