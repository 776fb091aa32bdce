"""`tagmoe data synthesize`: make training samples by a plan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.eval.editors import EditorOptions
from tagmoe.cli.options import MOST_PROCESSES, AsJson, Engine, EngineName, RayAddress
from tagmoe.cli.output import log, print_result, stdout_to_stderr
from tagmoe.cli.progress import count_bar
from tagmoe.cli.vlm_options import need_vlm_extra, open_vlm
from tagmoe.config import find_plan
from tagmoe.errors import UsageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.factory.plan import Edit, Plan, ServedVLM
    from tagmoe.factory.survival import Estimate, Survival
    from tagmoe.factory.synthesize import EditorMade

PACKAGED_LICENCE = "Apache-2.0"
"""The licence of the packaged model, as its card says."""


def synthesize(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="YAML file, or the name of a packaged plan.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; by default the plan's name. One goes on.")
    ] = None,
    engine: Engine = EngineName.local,
    workers: Annotated[int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes, each with its own editor.")] = 1,
    address: RayAddress = None,
    estimate: Annotated[
        bool, typer.Option("--plan", help="Estimate rows, hours and costs of each step, and make nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make samples by a plan: instructions, edits, checks, judges, the best of several; the same command goes on.

    The samples are in FOLDER/store, what was dropped in FOLDER/negatives; FOLDER/survival.html says how many each step
    left. Example: tagmoe data synthesize tagworld/plans/quick --out made
    """
    from tagmoe.factory.folder import Folder
    from tagmoe.factory.plan import read_plan

    read = read_plan(find_plan(plan))
    folder = Folder((out or Path(read.name)).resolve())
    if estimate:
        _print_estimate(read, folder, as_json=as_json)
        return
    from tagmoe.data.store.engine import check_engine
    from tagmoe.factory.page import write_survival
    from tagmoe.factory.survival import survival
    from tagmoe.factory.synthesize import Means, Run

    check_engine(engine.value, workers, address)
    means = Means(_editor, _vlm, count_bar, log, engine.value, workers, address)
    started = time.perf_counter()
    # An editor is code of others, and may print: stdout is for the result.
    with stdout_to_stderr():
        Run(read, folder, means).run()
    found = survival(folder, read)
    write_survival(folder, read, found)
    seconds = time.perf_counter() - started
    data = {"folder": str(folder.path), "store": str(folder.path / "store"), **found.as_data()}
    lines = [*_lines(found), f"{seconds:.1f} s; the page is {folder.path / 'survival.html'}"]
    print_result(data, "\n".join(lines), as_json=as_json)
    if not found.kept:
        raise typer.Exit(1)


@dataclass(frozen=True)
class OpenEditor:
    """Opens the editor of a step, in the process that is to run it."""

    options: EditorOptions

    def __call__(self) -> Any:
        return self.options.open_editor()[0]


def _editor(step: Edit) -> EditorMade:
    """The editor of a step. Raises UsageError for settings that contradict each other."""
    from tagmoe.factory.synthesize import EditorMade

    options = EditorOptions(
        editor=step.editor,
        endpoint=step.endpoint,
        name=step.name,
        model=None if step.model is None else Path(step.model),
        steps=step.steps,
        cfg=step.cfg,
        settings=[f"{name}={value}" for name, value in step.options.items()] or None,
        timeout=step.timeout if step.endpoint is not None else None,
    )
    options.check()
    facts = options.editor_facts()
    is_packaged = options.kind == "model" and step.model is None
    licence = PACKAGED_LICENCE if is_packaged and step.licence == "none" else step.licence
    return EditorMade(
        OpenEditor(options), str(facts["name"]), facts.get("weights"), dict(facts.get("settings", {})), licence
    )


def _vlm(served: ServedVLM) -> Any:
    need_vlm_extra()
    return partial(open_vlm, served.endpoints, served.model, concurrency=served.concurrency, timeout=served.timeout)


def _print_estimate(plan: Plan, folder: Any, *, as_json: bool) -> None:
    from tagmoe.factory.survival import estimate, measured_before

    roots = _root_count(plan)
    steps = estimate(plan, roots, measured_before(folder))
    seconds = [step.rows * step.seconds for step in steps if step.seconds is not None]
    unknown = [step.title for step in steps if step.seconds is None]
    kept = steps[-1].left
    cost = plan.prices.hour * sum(seconds) / 3600
    rows = [
        {
            "step": step.title,
            "rows": round(step.rows),
            "left": round(step.left),
            "share": round(step.share, 4),
            "of": step.of,
            "seconds": None if step.seconds is None else round(step.rows * step.seconds, 3),
        }
        for step in steps
    ]
    data = {
        "roots": roots,
        "steps": rows,
        "kept": round(kept),
        "seconds": round(sum(seconds), 3),
        "without_seconds": unknown,
        "cost": round(cost, 4),
        "cost_a_sample": round(cost / kept, 6) if kept else None,
    }
    print_result(data, "\n".join(_estimate_lines(roots, steps, kept, sum(seconds), cost, unknown)), as_json=as_json)


def _estimate_lines(
    roots: int, steps: list[Estimate], kept: float, seconds: float, cost: float, unknown: list[str]
) -> list[str]:
    lines = [
        f"{counted(roots, 'root')}; an estimate, nothing was made",
        f"{'step':<14}{'rows':>12}{'left':>12}{'share':>8}  ",
    ]
    for step in steps:
        hours = "" if step.seconds is None else f", {step.rows * step.seconds / 3600:.2f} h"
        lines.append(f"{step.title:<14}{step.rows:>12,.0f}{step.left:>12,.0f}{step.share:>8.0%}  {step.of}{hours}")
    lines.append(f"kept: {kept:,.0f}" + (f", {seconds / kept:.3f} s each" if kept and seconds else ""))
    if cost and kept:
        lines.append(f"cost: {cost:,.2f}, {cost / kept:.4f} a sample")
    if unknown:
        lines.append(f"no seconds are known of {', '.join(unknown)}; say them in the plan, or run a part first")
    return lines


def _root_count(plan: Plan) -> int:
    from tagmoe.data.sources.registry import open_source
    from tagmoe.data.store.store import Store

    roots = plan.roots
    if roots.store is not None:
        count = len(Store.open(roots.store))
    elif roots.kind is not None:
        source = open_source(roots.kind, None if roots.path is None else Path(roots.path), roots.options)
        count = len(source)
    else:
        raise UsageError("The plan names no roots.")
    return count if roots.limit is None else min(count, roots.limit)


def _lines(found: Survival) -> list[str]:
    lines = [f"{'step':<14}{'rows':>10}{'left':>10}{'seconds':>10}"]
    for step in found.steps:
        seconds = "-" if step.seconds is None else f"{step.seconds:.1f}"
        lines.append(f"{step.title:<14}{step.before:>10,}{step.after:>10,}{seconds:>10}")
        lines += [f"{count:>24,}  {reason[:120]}" for reason, count in step.dropped.most_common(5)]
    lines.append(
        f"kept: {counted(found.kept, 'sample')}, {counted(found.preference_pairs, 'preference pair')}, "
        f"{counted(found.inverses, 'inverse')}"
    )
    if found.seconds_a_sample is not None:
        cost = f", cost {found.cost_a_sample:.4f}" if found.cost else ""
        lines.append(f"a kept sample: {found.seconds_a_sample:.3f} s{cost}")
    for name, (have, wanted) in found.quotas.items():
        lines.append(f"quota of {name}: {have:,} of {wanted:,}" + ("" if have >= wanted else ", not met"))
    return lines
