"""`tagmoe convert-release`: a pipeline folder from the authors' weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_folder, log, print_result, written_text
from tagmoe.cli.progress import byte_bar
from tagmoe.cli.upcycle import PIPELINE_FILES
from tagmoe.errors import UsageError


def convert_release(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="The authors' weights: a folder, a file, or YUXU915/TAG-MoE."),
    ],
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="The pipeline they were trained from: a folder, or Qwen/Qwen-Image.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Pipeline folder to write.")],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the authors' weights and all other parts of their base as one pipeline folder.

    The weights are copied without loading the model. After a kill, the same command resumes.

    Example: tagmoe convert-release TAG-MoE Qwen-Image tagmoe-release
    """
    check_output_folder(target, force=force, ours=PIPELINE_FILES)
    for folder in (source, base):
        apart = (folder.resolve(), target.resolve())
        if apart[0].is_relative_to(apart[1]) or apart[1].is_relative_to(apart[0]):
            raise UsageError(
                f"The output {str(target)!r} and {str(folder)!r} lie in one another; choose a folder elsewhere."
            )
    from tagmoe.weights.convert_release import convert_release as convert
    from tagmoe.weights.release import base_folder, release_source

    found, beside = release_source(source), base_folder(base)
    started = time.perf_counter()
    with byte_bar("convert") as progress:
        done = convert(found, beside, target, replace=force, progress=progress, log=log)
    seconds = time.perf_counter() - started
    counts, written = done.plan.counts(), done.written
    facts = {
        "output": str(target),
        "keys": counts,
        "dropped": list(done.plan.dropped),
        "num_moe_blocks": done.plan.config["num_moe_blocks"],
        "num_experts": done.plan.config["num_experts"],
        "bytes": written.nbytes,
        "bytes_written": written.nbytes_now,
        "seconds": round(seconds, 3),
        "kept": list(written.kept),
    }
    about = (
        "keys: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()),
        *(f"dropped: {name} (stored, but the authors' forward never adds it)" for name in done.plan.dropped),
        written_text(written, seconds),
    )
    print_result(facts, str(target), as_json=as_json, about=about)
