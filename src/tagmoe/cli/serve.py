"""`tagmoe serve`: an images server in OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.models import check_model, load_model, model_name, plan_memory
from tagmoe.cli.options import MemoryChoice, Model, Threads
from tagmoe.cli.output import log
from tagmoe.cli.rewriting import (
    AUTO,
    Rewrite,
    RewriteCaching,
    RewriteTimeout,
    check_backend,
    make_rewriter,
)
from tagmoe.cli.vlm_options import VLMName
from tagmoe.errors import MissingError, UsageError
from tagmoe.extras import install_line, is_installed, require
from tagmoe.rewrite.rewriter import SECONDS

PACKAGED_ID = "tagmoe-tagworld"


def serve(
    *,
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's own needs --api-keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0: any that is free.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", metavar="FILE", help="File of API keys that are accepted, one a line.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="LoRA that requests may name; may be given several times."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures that are drawn together at most.")] = 8,
    batch_wait: Annotated[
        float, typer.Option(min=0, max=10_000, help="Milliseconds that a picture waits for others to be drawn with.")
    ] = 5.0,
    queue: Annotated[
        int, typer.Option(min=1, max=100_000, help="Pictures that may wait; then the answer is 429.")
    ] = 32,
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds of a request at most, its wait included.")
    ] = 600.0,
    drain: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds to finish what runs, after SIGTERM or Ctrl-C.")
    ] = 60.0,
    max_n: Annotated[int, typer.Option(min=1, max=100, help="Results of a request at most.")] = 10,
    max_steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of a request at most.")] = 100,
    max_images: Annotated[int, typer.Option(min=1, max=100, help="Pictures of a request at most.")] = 16,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=64, help="Megapixels of each picture of a request at most.")
    ] = 16.8,
    max_megabytes: Annotated[float, typer.Option(min=0.01, max=4096, help="Megabytes of a request at most.")] = 64.0,
    allow_url_fetch: Annotated[
        bool, typer.Option("--allow-url-fetch", help="Fetch pictures that requests name by a public URL.")
    ] = False,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="Also serve the web page, at /; by default where Gradio is installed."),
    ] = None,
    memory: MemoryChoice = "auto",
    threads: Threads = None,
    rewrite: Rewrite = AUTO,
    rewrite_timeout: RewriteTimeout = SECONDS,
    rewrite_cache: RewriteCaching = True,
    vlm_model: VLMName = None,
) -> None:
    """Serve pictures in OpenAI's images protocol, on this machine only by default.

    Example: tagmoe serve --port 8000
    """
    require("serve", purpose="The images server")
    if page:
        require("page", purpose="The web page")
    from tagmoe.serve.limits import Limits
    from tagmoe.serve.server import address_of, check_place, listen, read_keys
    from tagmoe.serve.server import serve as run

    keys = [] if api_keys is None else read_keys(api_keys)
    check_place(host, keys)
    files = named_loras(lora or [])
    folder = check_model(model)
    check_backend(rewrite, vlm_model)
    place = listen(host, port)
    plan = plan_memory(model, memory)
    pipeline = load_model(model, threads=threads, plan=plan)

    from tagmoe.routing.predicted_tags import Alignment
    from tagmoe.serve.api import make_app
    from tagmoe.serve.painter import PipelinePainter
    from tagmoe.serve.prompts import Prompts
    from tagmoe.world.rules import is_instruction

    try:
        alignment = Alignment.load(folder)
    except MissingError:
        alignment = None
    name = PACKAGED_ID if model is None else model_name(model)
    painter = PipelinePainter(pipeline, name, loras=files, alignment=alignment)
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
    prompts = Prompts(rewriter, is_instruction) if rewrite == AUTO else Prompts(rewriter)
    limits = Limits(
        body=round(max_megabytes * 1e6),
        pixels=round(max_megapixels * 1e6),
        images=max_images,
        n=max_n,
        steps=max_steps,
        seconds=timeout,
        queue=queue,
        batch=batch,
        wait=batch_wait / 1000,
    )
    has_page = page is not False and is_installed("page")
    if page is None and not has_page:
        log(f"There is no web page, because Gradio is not installed; run: {install_line('page')}.")
    if batch > 1 and not painter.batches:
        log("Pictures are drawn one at a time, so that none depends on the others of its batch.")
    app = make_app(painter, prompts=prompts, limits=limits, keys=keys, fetches=allow_url_fetch, page=has_page)
    address = address_of(place)
    said = f"{name} answers at {address}/v1" + (f", its page is at {address}/" if has_page else "")
    run(app, place, drain=drain, started=lambda: log(said))


def named_loras(given: list[str]) -> dict[str, Path]:
    """{name: file} of NAME=FILE. Raises UsageError for another form, a name that is given twice, or a missing file."""
    files: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        # A name becomes a part of the names of modules, where a dot would divide it.
        if not equals or not file or not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--lora is {text!r}; give NAME=FILE, with a name of letters, digits, - and _.")
        if name in files:
            raise UsageError(f"--lora gives the name {name!r} twice; give each LoRA its own.")
        if not Path(file).exists():
            raise UsageError(f"There is no LoRA {file!r}; give a file or a folder.")
        files[name] = Path(file)
    return files
