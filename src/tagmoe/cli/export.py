"""`tagmoe export`: a finished training run as a folder, a single file or a LoRA for other tools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagmoe.cli.models import quiet_libraries
from tagmoe.cli.options import AsJson, Force
from tagmoe.cli.output import check_output_folder, log, print_result, written_text
from tagmoe.cli.progress import byte_bar
from tagmoe.cli.upcycle import PIPELINE_FILES
from tagmoe.errors import UsageError

# Those of tagmoe.train.export, for the argument parser.
Form = Literal["diffusers", "safetensors", "lora"]
FILES = (*PIPELINE_FILES, "config.json", "model.safetensors", "pytorch_lora_weights.safetensors", "kohya.safetensors")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The output_dir of a finished training run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="diffusers: a pipeline folder. safetensors: the transformer in one file. lora: for diffusers, ComfyUI "
            "and kohya.",
        ),
    ] = "diffusers",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished training run for other tools, with a model card: data, licences, tags, seed, versions.

    After a kill, the same command resumes.

    Example: tagmoe export runs/one --format safetensors --out exported
    """
    check_output_folder(out, force=force, ours=FILES)
    if out.resolve().is_relative_to(run.resolve()) or run.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"The output {str(out)!r} and the run {str(run)!r} lie in one another; choose a folder elsewhere."
        )
    quiet_libraries()
    from tagmoe.train.export import export as write

    started = time.perf_counter()
    with byte_bar("export") as progress:
        written = write(run, form, out, replace=force, progress=progress, log=log)
    seconds = time.perf_counter() - started
    facts = {
        "output": str(out), "format": form, "bytes": written.nbytes, "bytes_written": written.nbytes_now,
        "seconds": round(seconds, 3), "kept": list(written.kept),
    }  # fmt: skip
    print_result(facts, str(out), as_json=as_json, about=[written_text(written, seconds)])
