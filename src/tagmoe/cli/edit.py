"""`tagmoe edit`: change pictures by an instruction."""

from __future__ import annotations

from pathlib import Path
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
    Size,
    Steps,
    Threads,
)
from tagmoe.cli.rewriting import NONE, Rewrite, RewriteCaching, RewriteTimeout
from tagmoe.cli.vlm_options import VLMName
from tagmoe.rewrite.rewriter import SECONDS


def edit(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="One or several pictures.")],
    prompt: Prompt,
    out: Out,
    model: Model = None,
    preset: PresetName = None,
    steps: Steps = None,
    cfg: Cfg = None,
    seed: Seed = None,
    size: Size = "match",
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
    """Edit one or several pictures by an instruction.

    Example: tagmoe edit scene.png -p "make the circle red" -o out.png
    """
    draw(
        images,
        prompt,
        out,
        model=model,
        preset=preset,
        steps=steps,
        cfg=cfg,
        seed=seed,
        size=size,
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
