"""`tagmoe eval generate`: the outputs of one editor for the cases of a benchmark."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tagmoe import __version__
from tagmoe.cli.eval.options import Bench, Limit, Shard, Tasks, log_failures, names_of, shard_of
from tagmoe.cli.models import check_model, load_model, model_name, plan_memory
from tagmoe.cli.options import AsJson, Cfg, FixedSeed, MemoryChoice, Model, Steps, Threads
from tagmoe.cli.output import log, print_result, typed_command
from tagmoe.cli.progress import lasting_bar
from tagmoe.errors import UsageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.evaluate.answers.answer import Answers, Asking
    from tagmoe.evaluate.benchmarks.cases import Prepared

EditorName = Literal["model", "copy", "target", "black", "shuffled"]


def generate(
    bench: Bench,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; one that is there goes on.")],
    editor: Annotated[
        EditorName, typer.Option(help="The editor: a model, or an anchor (copy, target, black, shuffled).")
    ] = "model",
    outputs: Annotated[
        Path | None, typer.Option(help="Instead of an editor: a folder of ready outputs, by the ids of the cases.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in tables; by default the model's or the folder's.")] = None,
    model: Model = None,
    steps: Steps = None,
    cfg: Cfg = None,
    seed: FixedSeed = 0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Cases that are edited at once.")] = 32,
    marks: Annotated[
        Literal["words", "keep"], typer.Option(help="Marks such as <REF_1> in instructions: as words, or kept.")
    ] = "words",
    mask: Annotated[
        Literal["leave-out", "reference"], typer.Option(help="Masks: not given, or given as a further reference.")
    ] = "leave-out",
    tasks: Tasks = None,
    limit: Limit = None,
    shard: Shard = "1/1",
    memory: MemoryChoice = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Make the outputs of an editor for a benchmark, and keep each at once; run it again after a stop.

    A case that fails has no picture; it is listed, and the exit code is 1. The next run asks for it again.
    Example: tagmoe eval generate bench --editor copy --out copy
    """
    from tagmoe.evaluate.answers.answer import Asking
    from tagmoe.evaluate.benchmarks.cases import read_prepared

    part = shard_of(shard)
    prepared = read_prepared(bench)
    chosen = prepared.chosen(names_of(tasks), limit)[part[0] - 1 :: part[1]]
    if outputs is not None and editor != "model":
        raise UsageError(f"--editor is {editor} and --outputs names a folder; give one of them.")
    if editor != "model" and name is not None:
        raise UsageError(f"--name does not apply to the anchor {editor!r}, which has a name.")
    if editor != "model" or outputs is not None:
        answers = _looked_up(prepared, editor, outputs, name, seed)
    else:
        asking = Asking(marks=marks, mask=mask)
        answers = _model(prepared, model, name, asking, steps, cfg, threads, memory)
    from tagmoe.evaluate.generation import generate as run
    from tagmoe.evaluate.run_folder import RunFacts

    facts = RunFacts.of(
        prepared,
        answers,
        seed,
        versions=_versions(is_model=editor == "model" and outputs is None),
        command=typed_command("tagmoe eval generate"),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    started = time.perf_counter()
    with lasting_bar("generating", len(chosen)) as done:
        made = run(
            prepared,
            answers,
            facts,
            out,
            tasks=names_of(tasks),
            limit=limit,
            shard=part,
            batch=batch,
            on_cases=done,
        )
    seconds = round(time.perf_counter() - started, 3)
    listed = ", ".join(f"{count:,} {status}" for status, count in made.counts.items())
    log(f"{counted(made.answers, 'case')}: {listed}; {made.new:,} asked now, in {seconds:.1f} s")
    failures = [(answer.id, answer.status, answer.reason) for answer in made.failures]
    log_failures(failures)
    data = {
        "run": str(out),
        "key": facts.key,
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


def _versions(*, is_model: bool) -> dict[str, str]:
    """What the outputs depend on; torch and the like only where they were used, because they take seconds to import."""
    if is_model:
        from tagmoe.train.recipe import versions

        return versions()
    return {"tagmoe": __version__, "pillow": version("pillow"), "numpy": version("numpy")}


def _looked_up(prepared: Prepared, editor: str, outputs: Path | None, name: str | None, seed: int) -> Answers:
    """An anchor, or a folder of ready outputs."""
    from tagmoe.evaluate.answers.anchors import AnchorAnswers
    from tagmoe.evaluate.answers.ready import ReadyFolder

    return AnchorAnswers(editor, prepared, seed) if outputs is None else ReadyFolder(outputs, name)


def _model(
    prepared: Prepared,
    model: Path | None,
    name: str | None,
    asking: Asking,
    steps: int | None,
    cfg: float | None,
    threads: int | None,
    memory: str,
) -> Answers:
    """A pipeline of tagmoe as the editor."""
    folder = check_model(model)
    pipeline = load_model(model, threads=threads, plan=plan_memory(model, memory))
    from tagmoe.evaluate.answers.answer import AskedEditor
    from tagmoe.evaluate.answers.weights import digest_of_weights
    from tagmoe.pipeline.editor import pipeline_editor

    named = {
        "name": model_name(model) if name is None else name,
        "weights": digest_of_weights(folder),
        "settings": {
            "steps": pipeline.config.default_steps if steps is None else steps,
            "cfg": pipeline.config.default_cfg if cfg is None else cfg,
        },
    }
    return AskedEditor(pipeline_editor(pipeline, steps=steps, cfg=cfg), prepared, named, asking)
