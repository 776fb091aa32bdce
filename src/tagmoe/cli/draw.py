"""The common part of `edit` and `generate`: check the options, load the model, draw one result or several."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.cli.batch import STREAM, Asked, Job, choose_seeds, plan_jobs
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
    NegativePrompt,
    NoMetadata,
    NumImages,
    PresetName,
    Replay,
    Seeds,
    Steps,
    Threads,
)
from tagmoe.cli.output import check_output_file, check_output_name, log, make_folder, print_result, release_output
from tagmoe.cli.progress import step_bar
from tagmoe.cli.rewriting import (
    AUTO,
    NONE,
    Rewrite,
    RewriteCaching,
    RewriteTimeout,
    check_backend,
    make_rewriter,
)
from tagmoe.cli.vlm_options import VLMName
from tagmoe.errors import TagMoEError, UsageError
from tagmoe.rewrite.rewriter import SECONDS
from tagmoe.sentences import counted
from tagmoe.weights.presets import find_preset

if TYPE_CHECKING:
    from tagmoe.cli.result import Studio
    from tagmoe.cli.sources import Source


@dataclass(frozen=True)
class DrawOptions:
    """Options of `edit` and `generate`."""

    model: Model = None
    preset: PresetName = None
    steps: Steps = None
    cfg: Cfg = None
    seed: Seeds = None
    num_images: NumImages = None
    negative_prompt: NegativePrompt = None
    replay: Replay = None
    lora: Lora = None
    lora_scale: LoraScale = None
    memory: MemoryChoice = "auto"
    threads: Threads = None
    explain: Explain = None
    rewrite: Rewrite = AUTO
    rewrite_timeout: RewriteTimeout = SECONDS
    rewrite_cache: RewriteCaching = True
    vlm_model: VLMName = None
    no_metadata: NoMetadata = False
    force: Force = False
    as_json: AsJson = False


def draw(
    pictures: Sequence[Path],
    prompt: str | None,
    out: Path,
    size: str,
    options: DrawOptions,
    *,
    edits: bool,
    each: bool = False,
    mask: Path | None = None,
) -> None:
    """Edit `pictures`, or generate without any, and write one or several results. With --explain, also write a page.

    edits: by `edit`, which needs a picture. If rewriting fails, or takes longer than `rewrite_timeout` seconds, the
    prompt is used as it is. With several results, what fails is said and the others go on; the end is a TagMoEError.
    """
    asked = Asked(tuple(pictures), prompt, size, each, mask, options)
    if options.replay is not None:
        from tagmoe.cli.replay import replayed

        asked = replayed(options.replay, asked, edits=edits)
        options = asked.options
    text = _checked(asked, edits=edits)
    width, height = parse_size(asked.size)
    chosen = None if options.preset is None else find_preset(options.preset)
    jobs = plan_jobs(asked, out, choose_seeds(options.seed, options.num_images))
    count = sum(len(job.results) for job in jobs)
    single = count == 1
    if single:
        check_result(jobs[0].results[0][1], options)
    else:
        check_results(out, jobs)
    if options.lora_scale and len(options.lora_scale) != len(options.lora or ()):
        given, needed = len(options.lora_scale), len(options.lora or ())
        raise UsageError(
            f"--lora-scale is given {counted(given, 'time')} and --lora {counted(needed, 'time')}; give one for each."
        )
    check_model(options.model)
    check_backend(options.rewrite, options.vlm_model)
    if options.explain is not None and not single:
        raise UsageError(f"--explain is a page of one picture, and this makes {count}; leave one of them out.")
    page = None if options.explain is None else prepare_page(options.explain, options.model, force=options.force)
    from tagmoe.cli.result import Studio
    from tagmoe.cli.sources import read_mask, read_source

    # Read before the model where it decides whether there is anything to do.
    painted = None if asked.mask is None else read_mask(asked.mask)
    early = [read_source(picture) for picture in jobs[0].pictures] if len(jobs) == 1 else None
    plan = plan_memory(options.model, options.memory)
    pipeline = load_model(options.model, threads=options.threads, plan=plan)
    # The bar of this command counts the steps of all its results.
    pipeline.set_progress_bar_config(disable=True)
    reports = load_loras(pipeline, options.lora or (), options.lora_scale)
    steps, cfg = options.steps, options.cfg
    if chosen is not None:
        steps, cfg = chosen.steps if steps is None else steps, chosen.cfg if cfg is None else cfg
    steps = pipeline.config.default_steps if steps is None else steps
    cfg = pipeline.config.default_cfg if cfg is None else cfg
    if options.negative_prompt is not None:
        if cfg <= 1:
            raise UsageError(f"--negative-prompt needs guidance, but the scale is {cfg:g}; give --cfg above 1.")
        pipeline.check_prompt(options.negative_prompt)
    if options.rewrite == NONE:
        pipeline.check_prompt(text)
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
    studio = Studio(
        asked=asked,
        prompt=text,
        pipeline=pipeline,
        plan=plan,
        reports=reports,
        steps=steps,
        cfg=cfg,
        size=None if width is None or height is None else (width, height),
        preset=chosen,
        mask=painted,
        rewriter=rewriter,
        page=page,
        single=single,
    )
    with nullcontext() if rewriter is None else closing(rewriter), step_bar("drawing") as bar:
        if bar is not None:
            done = itertools.count(1)
            studio.on_step = lambda: bar(next(done), count * steps)
        if single:
            seed, file = jobs[0].results[0]
            result = studio.draw(jobs[0], early or [], seed, file)
        else:
            result = draw_all(studio, jobs, early)
    if single and out == STREAM:
        return
    written = [result["output"]] if single else [one["output"] for one in result["results"]]
    if written or options.as_json:
        print_result(result, "\n".join(written), as_json=options.as_json)
    if not single and result["failed"]:
        raise TagMoEError(f"{len(result['failed'])} of {count} results are missing; the reasons are above.")


def _checked(asked: Asked, *, edits: bool) -> str:
    """The prompt. Raises UsageError where something is missing or does not go together."""
    if asked.prompt is None:
        raise UsageError("There is no --prompt (or -p); say what to draw or to change, e.g. -p 'make the circle red'.")
    if not asked.prompt.strip():
        raise UsageError("The prompt is empty; say what to draw or what to change, e.g. -p 'make the circle red'.")
    if edits and not asked.pictures:
        raise UsageError("There is no IMAGE to edit; name a picture, or use tagmoe generate. See tagmoe edit --help.")
    if asked.mask is not None and asked.size != "match":
        raise UsageError("--size does not go with --mask: the result has the size of the picture; leave --size out.")
    return asked.prompt


def check_result(file: Path, options: DrawOptions) -> None:
    """Refuse the one result of a command before any work starts. Raises as `check_output_file` does."""
    if file != STREAM:
        check_output_file(file, force=options.force)
        return
    if options.as_json:
        raise UsageError("--json and -o - both write to stdout; leave one of them out.")
    if sys.stdout.isatty():
        raise UsageError("-o - writes the bytes of a picture, and stdout is a terminal; use a pipe, or name a file.")


def check_results(out: Path, jobs: Sequence[Job]) -> None:
    """Refuse the place of several results before any work starts. Raises UsageError."""
    first = jobs[0].results[0][1]
    if first.parent != out:
        check_output_name(first)
    elif out.exists() and not out.is_dir():
        raise UsageError(f"The output {str(out)!r} is a file, and this makes several; give the name of a folder.")
    elif not out.parent.is_dir():
        raise UsageError(f"There is no folder {str(out.parent)!r} for the output; create it or choose another.")


def draw_all(studio: Studio, jobs: Sequence[Job], early: Sequence[Source] | None) -> dict[str, Any]:
    """Draw several results, and say of each that cannot be drawn why not. A finished one of an earlier run is kept.

    early: the sources of a single job. Returns the facts for --json: the results, what was kept and what failed.
    """
    from tagmoe.cli.sources import read_source

    told: dict[str, Any] = {"results": [], "kept": [], "failed": []}
    folder, force = jobs[0].results[0][1].parent, studio.asked.options.force
    made = not folder.exists()
    if made:
        make_folder(folder)
    try:
        for job in jobs:
            try:
                sources = [read_source(picture) for picture in job.pictures] if early is None else early
            except TagMoEError as error:
                for _, file in job.results:
                    _fail(told, file, error)
                continue
            for seed, file in job.results:
                try:
                    if file.exists() and not force and studio.is_made(file, sources, seed):
                        log(f"{file}: kept, an earlier run made it in the same way")
                        told["kept"].append(str(file))
                        continue
                    check_output_file(file, force=force)
                    told["results"].append(studio.draw(job, sources, seed, file))
                except TagMoEError as error:
                    _fail(told, file, error)
                finally:
                    release_output(file)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
    return told


def _fail(told: dict[str, Any], file: Path, error: TagMoEError) -> None:
    log(f"{file}: failed: {error}")
    told["failed"].append({"output": str(file), "error": str(error)})


def parse_size(size: str) -> tuple[int | None, int | None]:
    """(width, height) of "WxH", or (None, None) of "match". Raises UsageError for anything else."""
    if size == "match":
        return None, None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size.lower())
    if found is None or "0" in found.groups():
        raise UsageError(f"--size is {size!r}; give WIDTHxHEIGHT such as 64x64, or match.")
    return int(found[1]), int(found[2])
