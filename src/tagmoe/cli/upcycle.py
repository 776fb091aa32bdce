"""`tagmoe upcycle`: a mixture model from a trained dense one."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.models import hush
from tagmoe.cli.options import AsJson, FixedSeed, Force
from tagmoe.cli.output import check_output_folder, give, new_folder
from tagmoe.errors import MissingError, UsageError

PIPELINE_FILES = (
    "model_index.json",
    "transformer",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "alignment.safetensors",
    "README.md",
    ".gitattributes",
)
TRANSFORMER_FILES = ("config.json", "diffusion_pytorch_model*")


class Gate(StrEnum):
    """The gates of tagmoe.model.gate, without importing torch for the help."""

    mlp = "mlp"
    linear = "linear"


class Mode(StrEnum):
    """The modes of tagmoe.model.upcycle, without importing torch for the help."""

    exact = "exact"
    plain = "plain"


def upcycle(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Dense transformer folder, or a pipeline with one.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write, of the same kind.")],
    num_moe_blocks: Annotated[int, typer.Option(min=1, help="L: how many of the last blocks become mixtures.")],
    num_experts: Annotated[int, typer.Option(min=2, help="N: experts in each.")] = 4,
    top_k: Annotated[int, typer.Option(min=1, help="A: experts that a token goes to.")] = 1,
    gate: Annotated[Gate, typer.Option(help="mlp as in the paper, linear as in the authors' release.")] = Gate.mlp,
    mode: Annotated[Mode, typer.Option(help="exact equals the dense model at step 0; plain copies.")] = Mode.exact,
    noise: Annotated[float, typer.Option(min=0, help="Noise on the experts, as a share of the weights' spread.")] = 0.0,
    seed: FixedSeed = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn the last blocks of a dense transformer into mixtures of copies, and measure the drift at step 0."""
    is_pipeline = (source / "model_index.json").is_file()
    part = source / "transformer" if is_pipeline else source
    if not (part / "config.json").is_file():
        raise MissingError(
            f"There is no transformer in {str(source)!r}; give a folder with config.json, or a pipeline folder with "
            "transformer/."
        )
    check_output_folder(target, force=force, ours=PIPELINE_FILES if is_pipeline else TRANSFORMER_FILES)
    apart = (source.resolve(), target.resolve())
    if apart[0].is_relative_to(apart[1]) or apart[1].is_relative_to(apart[0]):
        raise UsageError(
            f"The output {str(target)!r} and the source {str(source)!r} lie in one another; choose a folder elsewhere."
        )
    import torch

    hush()
    from tagmoe.model.transformer import TagMoETransformer2DModel
    from tagmoe.model.upcycle import drift
    from tagmoe.model.upcycle import upcycle as build

    dense = TagMoETransformer2DModel.from_pretrained(part)
    mixture = build(
        dense,
        num_moe_blocks=num_moe_blocks,
        num_experts=num_experts,
        top_k=top_k,
        gate=gate.value,
        mode=mode.value,
        noise=noise,
        generator=torch.Generator().manual_seed(seed),
    )
    measured = drift(dense, mixture, seed=seed)
    with new_folder(target) as folder:
        if is_pipeline:
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("transformer"))
            _name_transformer(folder / "model_index.json")
        mixture.save_pretrained(folder / "transformer" if is_pipeline else folder)
    text = f"{target}\nstep-0 drift: {measured:.2e} (max difference / max of the dense model's output; {mode.value})"
    facts = {"num_moe_blocks": num_moe_blocks, "num_experts": num_experts, "mode": mode.value, "seed": seed}
    give({"output": str(target), "drift": measured, **facts}, text, as_json=as_json)


def _name_transformer(index: Path) -> None:
    """Say in model_index.json that the transformer is ours now."""
    data = json.loads(index.read_text(encoding="utf-8"))
    data["transformer"] = ["tagmoe", "TagMoETransformer2DModel"]
    index.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
