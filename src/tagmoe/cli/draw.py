"""The common part of `edit` and `generate`: check the options, load the model, draw one picture, write it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tagmoe.cli.explain import prepare_page
from tagmoe.cli.models import check_model, load_loras, load_model, model_name, plan_memory
from tagmoe.cli.options import (
    AsJson,
    Cfg,
    Explain,
    Force,
    Lora,
    LoraScale,
    MemoryChoice,
    Model,
    NoMetadata,
    PresetName,
    Seed,
    Steps,
    Threads,
)
from tagmoe.cli.output import check_output_file, log, print_result, write_image
from tagmoe.cli.rewriting import (
    NONE,
    Rewrite,
    RewriteCaching,
    RewriteTimeout,
    check_backend,
    drawn_facts,
    logged,
    make_rewriter,
)
from tagmoe.cli.vlm_options import VLMName
from tagmoe.errors import UsageError
from tagmoe.pipeline.packaged import picture_path
from tagmoe.rewrite.rewriter import SECONDS
from tagmoe.sentences import counted
from tagmoe.weights.presets import find_preset

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipelineOutput


@dataclass(frozen=True)
class DrawOptions:
    """Options of `edit` and `generate`."""

    model: Model = None
    preset: PresetName = None
    steps: Steps = None
    cfg: Cfg = None
    seed: Seed = None
    lora: Lora = None
    lora_scale: LoraScale = None
    memory: MemoryChoice = "auto"
    threads: Threads = None
    explain: Explain = None
    rewrite: Rewrite = NONE
    rewrite_timeout: RewriteTimeout = SECONDS
    rewrite_cache: RewriteCaching = True
    vlm_model: VLMName = None
    no_metadata: NoMetadata = False
    force: Force = False
    as_json: AsJson = False


def draw(pictures: Sequence[Path], prompt: str, out: Path, size: str, options: DrawOptions) -> None:
    """Edit `pictures`, or generate without any, and write the result to `out`. With --explain, also write a page.

    If rewriting fails, or takes longer than `rewrite_timeout` seconds, the prompt is used as it is.
    """
    if not prompt.strip():
        raise UsageError("The prompt is empty; say what to draw or what to change, e.g. -p 'make the circle red'.")
    width, height = parse_size(size)
    steps, cfg = options.steps, options.cfg
    chosen = None if options.preset is None else find_preset(options.preset)
    check_output_file(out, force=options.force)
    if options.lora_scale and len(options.lora_scale) != len(options.lora or ()):
        given, needed = len(options.lora_scale), len(options.lora or ())
        raise UsageError(
            f"--lora-scale is given {counted(given, 'time')} and --lora {counted(needed, 'time')}; give one for each."
        )
    check_model(options.model)
    check_backend(options.rewrite, options.vlm_model)
    page = None if options.explain is None else prepare_page(options.explain, options.model, force=options.force)
    from tagmoe.pictures import load_image

    references = [load_image(picture_path(picture)) for picture in pictures]
    plan = plan_memory(options.model, options.memory)
    pipeline = load_model(options.model, threads=options.threads, plan=plan)
    reports = load_loras(pipeline, options.lora or (), options.lora_scale)
    if chosen is not None:
        steps, cfg = chosen.steps if steps is None else steps, chosen.cfg if cfg is None else cfg
        if width is None:
            width, height = chosen.size(references[0].size if references else None, pipeline.largest_side)
    if references and width is None and pipeline.config.known_words is not None:
        # A model of a small world draws one size only. Tell the user that a large picture is resized.
        side = pipeline.config.default_size
        for path, picture in zip(pictures, references, strict=True):
            if picture.size != (side, side):
                log(
                    f"{str(path)!r} is {picture.width}x{picture.height}; this model works at the area of "
                    f"{side}x{side}, so the picture is resized."
                )
    from tagmoe.pipeline.arguments import check_output_size
    from tagmoe.pipeline.training_range import far_from_training

    first, default = references[0] if references else None, pipeline.config.default_size
    down, across = check_output_size(height, width, first, default, pipeline.size_multiple)
    if sentence := far_from_training(pipeline.config, references, (across, down)):
        log(sentence)
    rewriter = make_rewriter(
        options.rewrite,
        parts=lambda: (pipeline.text_encoder, pipeline.tokenizer),
        name=model_name(options.model),
        vlm_model=options.vlm_model,
        seconds=options.rewrite_timeout,
        caching=options.rewrite_cache,
        known_words=pipeline.config.known_words,
        accepts=pipeline.check_prompt,
    )
    started = time.perf_counter()
    with nullcontext() if rewriter is None else closing(rewriter):
        answer = pipeline(
            prompt,
            references or None,
            height=height,
            width=width,
            num_inference_steps=steps,
            true_cfg_scale=cfg,
            seed=options.seed,
            return_routing=None if page is None else "full",
            rewriter=None if rewriter is None else logged(rewriter),
        )
    output = cast("TagMoEPipelineOutput", answer)
    seconds = time.perf_counter() - started
    image = output.images[0]
    steps_taken = pipeline.config.default_steps if steps is None else steps
    facts = {
        "prompt": output.prompts[0],
        "seed": output.seeds[0],
        "steps": steps_taken,
        "cfg": pipeline.config.default_cfg if cfg is None else cfg,
        "model": model_name(options.model),
        **({} if options.preset is None else {"preset": options.preset}),
        **({"lora": ", ".join(Path(name).name for name in options.lora)} if options.lora else {}),
    }
    rewriting = None if rewriter is None else rewriter.results[-1]
    told = facts | ({} if rewriting is None else drawn_facts(rewriting))
    write_image(
        image,
        out,
        {} if options.no_metadata else {"Software": "tagmoe", **{name: str(value) for name, value in told.items()}},
    )
    log(f"{image.width}x{image.height}, seed {output.seeds[0]}, {counted(steps_taken, 'step')}, {seconds:.1f} s")
    explained = {} if page is None else page.write(pipeline, output, references, told)
    print_result(
        {
            "output": str(out),
            **{name: value for name, value in facts.items() if name != "lora"},
            "width": image.width,
            "height": image.height,
            "seconds": round(seconds, 3),
            "memory_plan": plan.name,
            **explained,
            **({} if rewriting is None else {"rewriting": rewriting.as_json()}),
            **({"lora": [report.as_json() for report in reports]} if reports else {}),
        },
        str(out),
        as_json=options.as_json,
    )


def parse_size(size: str) -> tuple[int | None, int | None]:
    """(width, height) of "WxH", or (None, None) of "match". Raises UsageError for anything else."""
    if size == "match":
        return None, None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size.lower())
    if found is None or "0" in found.groups():
        raise UsageError(f"--size is {size!r}; give WIDTHxHEIGHT such as 64x64, or match.")
    return int(found[1]), int(found[2])
