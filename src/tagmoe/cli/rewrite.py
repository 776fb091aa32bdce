"""`tagmoe rewrite`: print a better wording of an instruction, or the instruction itself."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.models import check_model, model_name, quiet_libraries
from tagmoe.cli.options import AsJson, Model, Prompt
from tagmoe.cli.output import log, print_result
from tagmoe.cli.rewriting import (
    BACKENDS,
    NONE,
    SELF,
    TAGWORLD,
    RewriteCaching,
    RewriteTimeout,
    check_backend,
    log_rewriting,
    make_rewriter,
)
from tagmoe.cli.vlm_options import VLMName
from tagmoe.errors import UsageError
from tagmoe.rewrite.rewriter import SECONDS, Rewriting

if TYPE_CHECKING:
    from collections.abc import Sequence


def rewrite(
    prompt: Prompt,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="The pictures to edit; none for text to image.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help=f"{BACKENDS[0].upper()}{BACKENDS[1:]}. By default tagworld for its model."),
    ] = None,
    model: Model = None,
    vlm_model: VLMName = None,
    rewrite_timeout: RewriteTimeout = SECONDS,
    rewrite_cache: RewriteCaching = True,
    as_json: AsJson = False,
) -> None:
    """Print the words that `tagmoe edit --rewrite` would use for an instruction.

    If it cannot be rewritten, the instruction itself is printed, with the reason on stderr.

    Example: tagmoe rewrite scene.png -p "sunglasses"
    """
    if not prompt.strip():
        raise UsageError("The prompt is empty; say what to draw or what to change, e.g. -p 'make the circle red'.")
    quiet_libraries()
    words = known_words(model) if model is not None or backend in (None, SELF) else None
    if backend is None:
        backend = SELF if words is None else TAGWORLD
    check_backend(backend, vlm_model)
    from tagmoe.pictures import load_image
    from tagmoe.pipeline.arguments import check_words
    from tagmoe.pipeline.packaged import picture_path

    pictures = [load_image(picture_path(image)) for image in images or ()]
    rewriter = make_rewriter(
        backend,
        parts=lambda: text_parts(model),
        name=model_name(model),
        vlm_model=vlm_model,
        seconds=rewrite_timeout,
        caching=rewrite_cache,
        known_words=words,
        accepts=None if words is None else lambda text: check_words(text, words),
    )
    if rewriter is None:
        result = Rewriting(prompt, prompt, "unchanged", reason="nobody was asked", model=NONE, prompt_version="")
    else:
        with closing(rewriter):
            rewriter(prompt, pictures)
        result = rewriter.results[-1]
    log_rewriting(result)
    if result.status == "ok":
        log(f"- {result.raw}\n+ {result.text}")
    if result.task_guess is not None:
        log(f"task: {result.task_guess.format()}")
    if result.kept_constraints:
        log(f"kept: {'; '.join(result.kept_constraints)}")
    print_result(result.as_json(), result.text, as_json=as_json)


def known_words(model: Path | None) -> Sequence[str] | None:
    """The words that a model accepts; None if it accepts any. Raises the errors of `check_model_folder`."""
    from tagmoe.files.json_files import read_object
    from tagmoe.pipeline.folder import check_model_folder

    folder = check_model(model)
    check_model_folder(folder)
    return read_object(folder / "model_index.json").get("known_words")


def text_parts(model: Path | None) -> tuple[Any, Any]:
    """Load only the text encoder and the tokenizer of a pipeline folder, on a GPU in bf16 if there is one."""
    folder = check_model(model)
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    on_gpu = torch.cuda.is_available()
    text_encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "text_encoder",
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        use_safetensors=True,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return text_encoder.eval().to("cuda" if on_gpu else "cpu"), tokenizer
