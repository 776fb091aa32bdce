"""`tagmoe study analyze`: the report of a study."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, FixedSeed, Force
from tagmoe.cli.output import check_output_folder, log, print_result, typed_command, write_folder
from tagmoe.cli.study.options import Study
from tagmoe.extras import require
from tagmoe.report.numbers import percent


def analyze(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: report.html, and tables beside it.")],
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Analyze the simulated answers; the report says so everywhere.")
    ] = False,
    draws: Annotated[int, typer.Option(min=100, max=100_000, help="Draws of the bootstrap.")] = 2000,
    seed: FixedSeed = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Selection rates with intervals, tests, agreement, biases, exclusions and a reporting checklist, as planned.

    Example: tagmoe study analyze study --out report
    """
    require("study", purpose="The analysis of a study")
    from tagmoe.study.analysis import analyze as make
    from tagmoe.study.answers import collect_answers
    from tagmoe.study.build import read_key
    from tagmoe.study.manifest import ANSWERS, KEY, SIMULATED, read_manifest
    from tagmoe.study.report import FILES, PAGE, write_report
    from tagmoe.study.report import SIMULATED as WARNING

    check_output_folder(out, force=force, ours=FILES)
    manifest = read_manifest(study)
    collected = collect_answers(manifest, study / (SIMULATED if simulated else ANSWERS))
    reframed = read_key(study, manifest).reframed if (study / KEY).exists() else {}
    analysis = make(manifest, collected, draws=draws, seed=seed)
    about = {
        "command": typed_command("tagmoe study analyze"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    data = write_folder(out, partial(write_report, analysis, about=about, reframed=reframed))
    if analysis.simulated:
        log(WARNING)
    for one in analysis.criteria:
        rates = sorted(one.rates, key=lambda rate: -rate.chosen)
        log(f"  {one.id}: " + ", ".join(f"{rate.method} {percent(rate.two_way.value)}" for rate in rates))
    page = out / PAGE
    print_result({"report": str(page), **data}, str(page), as_json=as_json)
