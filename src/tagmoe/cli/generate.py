"""`tagmoe generate`: a picture from text alone."""

from __future__ import annotations

from typing import Annotated

import typer

from tagmoe.cli.draw import draw
from tagmoe.cli.options import (
    AsJson,
    Cfg,
    Explain,
    Force,
    Lora,
    LoraScale,
    Memory,
    MemoryChoice,
    Model,
    NoMetadata,
    Out,
    PresetName,
    Prompt,
    Seed,
    Steps,
    Threads,
)
from tagmoe.cli.rewriting import NONE, Rewrite, RewriteCaching, RewriteTimeout
from tagmoe.cli.vlm_options import VLMName
from tagmoe.rewrite.rewriter import SECONDS


def generate(
    prompt: Prompt,
    out: Out,
    model: Model = None,
    preset: PresetName = None,
    steps: Steps = None,
    cfg: Cfg = None,
    seed: Seed = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the output; by default the model's own.")] = None,
    lora: Lora = None,
    lora_scale: LoraScale = None,
    memory: MemoryChoice = Memory.auto,
    threads: Threads = None,
    explain: Explain = None,
    rewrite: Rewrite = NONE,
    rewrite_timeout: RewriteTimeout = SECONDS,
    rewrite_cache: RewriteCaching = True,
    vlm_model: VLMName = None,
    no_metadata: NoMetadata = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Generate a picture from text.

    Example: tagmoe generate -p "a red circle at the top left" -o out.png
    """
    draw(
        [],
        prompt,
        out,
        model=model,
        preset=preset,
        steps=steps,
        cfg=cfg,
        seed=seed,
        size=size or "match",
        lora=lora,
        lora_scale=lora_scale,
        memory=memory,
        threads=threads,
        explain=explain,
        rewrite=rewrite,
        rewrite_timeout=rewrite_timeout,
        rewrite_cache=rewrite_cache,
        vlm_model=vlm_model,
        no_metadata=no_metadata,
        force=force,
        as_json=as_json,
    )
