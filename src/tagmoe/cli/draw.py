"""What `edit` and `generate` share: check everything cheap, load the model, draw one picture, write it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tagmoe.cli.explain import prepare_page
from tagmoe.cli.models import check_model, load_loras, load_model, model_name, plan_memory
from tagmoe.cli.output import check_output_file, log, print_result, write_image
from tagmoe.cli.rewriting import check_backend, drawn_facts, logged, make_rewriter
from tagmoe.errors import UsageError
from tagmoe.weights.presets import find_preset

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipelineOutput


def draw(
    pictures: Sequence[Path],
    prompt: str,
    out: Path,
    *,
    model: Path | None,
    preset: str | None,
    steps: int | None,
    cfg: float | None,
    seed: int | None,
    size: str,
    lora: Sequence[str] | None,
    lora_scale: Sequence[float] | None,
    memory: str,
    threads: int | None,
    explain: Path | None,
    rewrite: str,
    rewrite_timeout: float,
    rewrite_cache: bool,
    vlm_model: str | None,
    no_metadata: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Edit `pictures`, or generate without any, and write the result to `out`; and a page about it to `explain`.

    A rewriter that fails costs at most `rewrite_timeout` seconds: then the prompt is used as it is.
    """
    if not prompt.strip():
        raise UsageError("The prompt is empty; say what to draw or what to change, e.g. -p 'make the circle red'.")
    width, height = parse_size(size)
    chosen = None if preset is None else find_preset(preset)
    check_output_file(out, force=force)
    if lora_scale and len(lora_scale) != len(lora or ()):
        raise UsageError(
            f"--lora-scale is given {len(lora_scale)} times and --lora {len(lora or ())} times; give one for each."
        )
    check_model(model)
    check_backend(rewrite, vlm_model)
    page = None if explain is None else prepare_page(explain, model, force=force)
    from tagmoe.pictures import load_image

    references = [load_image(picture) for picture in pictures]
    plan = plan_memory(model, memory)
    pipeline = load_model(model, threads=threads, plan=plan)
    reports = load_loras(pipeline, lora or (), lora_scale)
    if chosen is not None:
        steps, cfg = chosen.steps if steps is None else steps, chosen.cfg if cfg is None else cfg
        if width is None:
            width, height = chosen.size(references[0].size if references else None, pipeline.largest_side)
    if references and width is None and pipeline.config.known_words is not None:
        # A model of a small world draws one size: what happens to a photo must not come as a surprise.
        side = pipeline.config.default_size
        for path, picture in zip(pictures, references, strict=True):
            if picture.size != (side, side):
                log(
                    f"{str(path)!r} is {picture.width}x{picture.height}; this model works at the area of "
                    f"{side}x{side}, so the picture is resized."
                )
    rewriter = make_rewriter(
        rewrite,
        parts=lambda: (pipeline.text_encoder, pipeline.tokenizer),
        name=model_name(model),
        vlm_model=vlm_model,
        seconds=rewrite_timeout,
        caching=rewrite_cache,
        known_words=pipeline.config.known_words,
        accepts=pipeline.check_prompt,
    )
    started = time.perf_counter()
    try:
        answer = pipeline(
            prompt,
            references or None,
            height=height,
            width=width,
            num_inference_steps=steps,
            true_cfg_scale=cfg,
            seed=seed,
            return_routing=None if page is None else "full",
            rewriter=None if rewriter is None else logged(rewriter),
        )
    finally:
        if rewriter is not None:
            rewriter.close()
    output = cast("TagMoEPipelineOutput", answer)
    seconds = time.perf_counter() - started
    image = output.images[0]
    facts = {
        "prompt": output.prompts[0],
        "seed": output.seeds[0],
        "steps": pipeline.config.default_steps if steps is None else steps,
        "cfg": pipeline.config.default_cfg if cfg is None else cfg,
        "model": model_name(model),
        **({} if preset is None else {"preset": preset}),
        **({"lora": ", ".join(Path(name).name for name in lora)} if lora else {}),
    }
    rewriting = None if rewriter is None else rewriter.results[-1]
    told = facts | ({} if rewriting is None else drawn_facts(rewriting))
    metadata = {} if no_metadata else {"Software": "tagmoe", **{name: str(value) for name, value in told.items()}}
    write_image(image, out, metadata)
    log(f"{image.width}x{image.height}, seed {output.seeds[0]}, {facts['steps']} steps, {seconds:.1f} s")
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
        as_json=as_json,
    )


def parse_size(size: str) -> tuple[int | None, int | None]:
    """(width, height) of "WxH", or (None, None) of "match". Raises UsageError for anything else."""
    if size == "match":
        return None, None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size.lower())
    if found is None or "0" in found.groups():
        raise UsageError(f"--size is {size!r}; give WIDTHxHEIGHT such as 64x64, or match.")
    return int(found[1]), int(found[2])
