"""`tagmoe upcycle`: make a mixture model from a trained dense one, on the disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagmoe.cli.models import model_of_run
from tagmoe.cli.options import AsJson, FixedSeed, Force
from tagmoe.cli.output import check_output_folder, log, print_result, written_text
from tagmoe.cli.progress import byte_bar
from tagmoe.errors import UsageError
from tagmoe.files.hub import local_folder
from tagmoe.files.resumable import NOTE

TRANSFORMER_FILES = ("config.json", "diffusion_pytorch_model*", NOTE)
PIPELINE_FILES = (
    "model_index.json",
    "transformer",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "alignment.safetensors",
    "tags_right.json",
    "README.md",
    ".gitattributes",
    NOTE,
)


# The gates and modes of tagmoe.weights.layout and the dtypes of tagmoe.weights.dtypes, for the argument parser.
Gate = Literal["mlp", "linear", "text"]
Mode = Literal["exact", "plain"]
Dtype = Literal["bf16", "fp16", "fp32"]


def upcycle(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Dense transformer folder, pipeline with one, or hub name owner/name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write, of the same kind.")],
    num_moe_blocks: Annotated[
        int, typer.Option(min=1, max=1000, help="L: how many of the last blocks become mixtures.")
    ],
    num_experts: Annotated[int, typer.Option(min=2, max=1024, help="N: experts in each.")] = 4,
    top_k: Annotated[int, typer.Option(min=1, max=1024, help="A: experts that a token goes to.")] = 1,
    gate: Annotated[
        Gate,
        typer.Option(help="mlp (paper), linear (release), or text: an mlp that also reads the text."),
    ] = "mlp",
    gate_hidden: Annotated[
        int | None, typer.Option(min=1, max=2**16, help="Width of the mlp gate; by default dim / 4.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="exact equals the dense model at step 0; plain copies.")] = "exact",
    noise: Annotated[
        float, typer.Option(min=0, max=100, help="Noise on the experts, as a share of the weights' spread.")
    ] = 0.0,
    dtype: Annotated[Dtype | None, typer.Option(help="Dtype of the output; by default as in the source.")] = None,
    max_shard_gb: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="Largest weight file to write, in GB.")
    ] = 10.0,
    seed: FixedSeed = 0,
    drift: Annotated[bool, typer.Option(help="Measure the step-0 drift where the model fits in memory.")] = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn the last blocks of a dense transformer into mixtures of copies, tensor by tensor, on the disk.

    After a kill, the same command resumes and keeps finished files.
    """
    source = model_of_run(source)
    is_pipeline = (source / "model_index.json").is_file()
    check_output_folder(target, force=force, ours=PIPELINE_FILES if is_pipeline else TRANSFORMER_FILES)
    apart = (source.resolve(), target.resolve())
    if apart[0].is_relative_to(apart[1]) or apart[1].is_relative_to(apart[0]):
        raise UsageError(
            f"The output {str(target)!r} and the source {str(source)!r} lie in one another; choose a folder elsewhere."
        )
    from tagmoe.cli.drift import Drift, measure_drift
    from tagmoe.weights.shards import MODEL_FILES
    from tagmoe.weights.upcycle import PART, Upcycling, transformer_folder, upcycle_folder

    if not source.is_dir():
        # Of a pipeline on the hub only the transformer is downloaded, because the other components do not change.
        folder = local_folder(source, allow_patterns=[*MODEL_FILES, *(f"{PART}/{name}" for name in MODEL_FILES)])
        source = folder / PART if (folder / PART / "config.json").is_file() else folder
    settings = Upcycling(
        num_moe_blocks=num_moe_blocks,
        num_experts=num_experts,
        top_k=top_k,
        gate=gate,
        gate_hidden=gate_hidden,
        mode=mode,
        noise=noise,
        seed=seed,
        dtype=dtype,
    )
    started = time.perf_counter()
    with byte_bar("upcycle") as progress:
        written = upcycle_folder(
            source,
            target,
            settings,
            max_shard_bytes=int(max_shard_gb * 1e9),
            replace=force,
            progress=progress,
            log=log,
        )
    seconds = time.perf_counter() - started
    measured = Drift(None, reason="--no-drift was given")
    if drift:
        measured = measure_drift(transformer_folder(source), transformer_folder(target), seed=seed)
    if measured.value is None:
        drift_text = f"step-0 drift not measured: {measured.reason}"
    else:
        drift_text = (
            f"step-0 drift: {measured.value:.2e} (max difference / max of the dense model's output; {mode}, "
            f"computed in {measured.dtype})"
        )
    print_result(
        {
            "output": str(target),
            "drift": measured.value,
            "drift_dtype": measured.dtype,
            "drift_reason": measured.reason or None,
            "bytes": written.nbytes,
            "bytes_written": written.nbytes_now,
            "seconds": round(seconds, 3),
            "kept": list(written.kept),
            **vars(settings),
        },
        str(target),
        as_json=as_json,
        about=(drift_text, written_text(written, seconds)),
    )
