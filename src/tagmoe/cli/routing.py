"""`tagmoe routing record | report`: record a model's routing, then show it without the model (Fig. 6)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.cli.models import check_model, load_model, model_name, plan_memory, quiet_libraries
from tagmoe.cli.options import MOST_CASES, AsJson, Cfg, FixedSeed, Force, MemoryChoice, Model, Steps, Threads
from tagmoe.cli.output import check_output_folder, log, new_folder, print_result, typed_command, write_folder
from tagmoe.cli.progress import lasting_bar
from tagmoe.cli.verbs import make_group
from tagmoe.errors import UsageError
from tagmoe.files.json_files import read_object
from tagmoe.files.resumable import size_text
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.laboratory.routing.recorder import RoutingCase
    from tagmoe.pipeline.pipeline import TagMoEPipeline
    from tagmoe.routing.recording import About

DEFAULT_CASES = 8
DEFAULT_CONTROLS = 6
BATCH = 32

app = make_group("Record what the experts do, and show it (paper Fig. 6).")


@app.command()
def record(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: the recording.")],
    model: Model = None,
    cases: Annotated[int, typer.Option(min=1, max=MOST_CASES, help="TagWorld cases of each task.")] = DEFAULT_CASES,
    tasks: Annotated[str | None, typer.Option(help="TagWorld tasks, separated by commas; by default all 25.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help='Your own cases instead: a JSONL file of {"instruction", "images", "task"?}.'),
    ] = None,
    controls: Annotated[
        int, typer.Option(min=0, max=100, help="TagWorld pictures that each get the same 18 instructions; 0 for none.")
    ] = DEFAULT_CONTROLS,
    interventions: Annotated[
        int,
        typer.Option(min=0, max=MOST_CASES, help="Cases of each task drawn again with each expert off, and forced."),
    ] = 0,
    steps: Steps = None,
    cfg: Cfg = None,
    seed: FixedSeed = 0,
    case_mb: Annotated[
        float,
        typer.Option(min=0.001, max=1e6, help="Most MB for the tokens of a case; larger ones keep only some steps."),
    ] = 32.0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Mark the model as untrained in the report.")
    ] = False,
    memory: MemoryChoice = "auto",
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a mixture model over cases and record every decision of its gates.

    Example: tagmoe routing record --interventions 2 --out recording
    """
    from tagmoe.routing.recording import FILES

    check_output_folder(out, force=force, ours=FILES)
    _check_mixture(model)
    chosen = _cases(source, cases, tasks, controls, seed)
    pipeline = load_model(model, threads=threads, plan=plan_memory(model, memory))
    from tagmoe.laboratory.routing.recorder import record_cases
    from tagmoe.routing.recording import RecordingWriter

    batch = BATCH if pipeline.config.known_words is not None else 1
    started = time.perf_counter()
    with new_folder(out) as folder:
        about = _about(pipeline, model, random_weights, seed, steps, cfg)
        writer = RecordingWriter(folder, about, case_bytes=int(case_mb * 1e6))
        with lasting_bar("recording", len(chosen)) as done:
            ids = record_cases(pipeline, chosen, writer, steps=steps, cfg=cfg, batch=batch, on_case=done)
        switched = None
        if interventions:
            from tagmoe.laboratory.routing.interventions import run_interventions

            some = {ids[i]: chosen[i] for i in _first_of_each_task(chosen, interventions)}
            with lasting_bar("switching experts", 1) as done:
                switched = run_interventions(
                    pipeline, some, writer, steps=steps, cfg=cfg, batch=batch, on_condition=done
                )
        writer.close(switched)
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = time.perf_counter() - started
    log(
        f"{counted(chosen, 'case')}, {size_text(nbytes)}, {seconds:.1f} s; see them: tagmoe routing report {out} -o "
        "report"
    )
    data = {"recording": str(out), "cases": len(chosen), "bytes": nbytes, "seconds": round(seconds, 3)}
    print_result(data, str(out), as_json=as_json)


@app.command()
def report(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="Folder that `tagmoe routing record` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, figures, CSV and JSON.")],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show a recording: one offline page with figures, and tables beside it. No model is loaded.

    Example: tagmoe routing report recording --out report
    """
    from tagmoe.routing.reading import read_recording
    from tagmoe.routing.report import FILES, PAGE, headline, write_report

    check_output_folder(out, force=force, ours=FILES)
    opened = read_recording(recording)
    data, found = write_folder(out, partial(write_report, opened))
    log(f"{headline(found)}.")
    page = out / PAGE
    print_result({"report": str(page), **data}, str(page), as_json=as_json)


def _check_mixture(model: Path | None) -> None:
    """Refuse a dense model by its config, before its weights are loaded."""
    config = check_model(model) / "transformer" / "config.json"
    if config.is_file() and not read_object(config).get("num_moe_blocks", 0):
        raise UsageError(
            f"The model {model_name(model)!r} has no mixture layers, so there is no routing to record; give a mixture "
            "model (tagmoe upcycle makes one of a dense one)."
        )


def _cases(source: Path | None, cases: int, tasks: str | None, controls: int, seed: int) -> list[RoutingCase]:
    if source is not None:
        if tasks is not None:
            raise UsageError("--tasks chooses TagWorld tasks and --from takes cases from a file; give one of them.")
        quiet_libraries()
        from tagmoe.laboratory.routing.case_file import read_case_file

        return read_case_file(source, seed)
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    from tagmoe.world import TASKS

    unknown = sorted(set(names or ()) - TASKS.keys())
    if unknown or names == []:
        raise UsageError(f"--tasks names {', '.join(unknown) or 'nothing'}; give some of {', '.join(TASKS)}.")
    quiet_libraries()
    from tagmoe.laboratory.routing.controls import tagworld_controls
    from tagmoe.laboratory.routing.recorder import tagworld_cases

    return tagworld_cases(cases, seed, names) + (tagworld_controls(controls, seed) if controls else [])


def _first_of_each_task(cases: list[RoutingCase], number: int) -> list[int]:
    """Indices of the first `number` cases of every task, without controls."""
    seen: dict[str | None, int] = {}
    chosen = []
    for index, case in enumerate(cases):
        if case.facts.control or seen.get(case.facts.task, 0) >= number:
            continue
        seen[case.facts.task] = seen.get(case.facts.task, 0) + 1
        chosen.append(index)
    return chosen


def _about(
    pipeline: TagMoEPipeline, model: Path | None, random_weights: bool, seed: int, steps: int | None, cfg: float | None
) -> About:
    from tagmoe.routing.recording import About
    from tagmoe.train.recipe import versions

    return About(
        model=model_name(model),
        random_weights=True if random_weights else False if model is None else None,
        versions=versions(),
        seed=seed,
        steps=pipeline.config.default_steps if steps is None else steps,
        cfg=pipeline.config.default_cfg if cfg is None else cfg,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=typed_command("tagmoe routing record"),
    )
