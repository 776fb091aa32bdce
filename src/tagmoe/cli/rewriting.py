"""Choose the rewriter of an instruction: --rewrite of `edit` and `generate`, --backend of `rewrite`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from tagmoe.cli.output import log
from tagmoe.cli.vlm_options import need_vlm_extra
from tagmoe.errors import TagMoEError, UsageError
from tagmoe.rewrite.cache import RewriteCache
from tagmoe.rewrite.rewriter import SECONDS, InstructionRewriter, Rewriting
from tagmoe.vlm.question import Answer, Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from tagmoe.vlm.question import VLM

AUTO, NONE, SELF, TAGWORLD = "auto", "none", "self", "tagworld"
BACKENDS = "self (the chat model inside the model's text encoder), the URL of a server, tagworld (its grammar), or none"

Rewrite = Annotated[
    str,
    typer.Option(
        "--rewrite",
        metavar="BACKEND",
        help=f"Rewrite the prompt before it is used, by {BACKENDS}; auto: tagworld for a model of that world.",
    ),
]
RewriteTimeout = Annotated[
    float,
    typer.Option(
        "--rewrite-timeout", min=0.1, max=86_400, help="Seconds for all attempts; then the prompt is used as it is."
    ),
]
RewriteCaching = Annotated[
    bool, typer.Option("--rewrite-cache/--no-rewrite-cache", help="Cache answers, and reuse those of earlier calls.")
]


class Rewriter(Protocol):
    """A `rewriter` for the pipeline that also keeps the results of its calls."""

    results: list[Rewriting]

    def __call__(self, instruction: str, images: Sequence[Image]) -> str: ...

    def close(self) -> None: ...


class UnavailableVLM:
    """A VLM that cannot be used. Every answer is an error with the reason."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self._reason = reason

    async def ask(self, _: Question) -> Answer:
        """The reason."""
        return Answer("failed", reason=self._reason)

    async def close(self) -> None:
        """Nothing is held."""


def check_backend(backend: str, vlm_model: str | None) -> None:
    """Check a backend before anything is loaded. Raises UsageError for a bad one, MissingError for a missing extra."""
    if backend in (AUTO, NONE, TAGWORLD):
        return
    if backend == SELF:
        need_vlm_extra("llguidance")
        return
    if not re.match(r"https?://[^/\s]", backend):
        raise UsageError(f"The rewriter is {backend!r}; give auto, {BACKENDS}.")
    if "@" in backend.partition("//")[2].partition("/")[0]:
        # Credentials in a URL would end up in reasons and metadata. They are secret, so the error does not repeat them.
        raise UsageError("The rewriter's URL holds a name or password; leave it out and set TAGMOE_VLM_KEY.")
    if not vlm_model:
        raise UsageError(f"The model at {backend!r} is not named; give --vlm-model NAME, as the server lists it.")
    need_vlm_extra()


def make_rewriter(
    backend: str,
    *,
    parts: Callable[[], tuple[Any, Any]],
    name: str,
    vlm_model: str | None = None,
    seconds: float = SECONDS,
    caching: bool = True,
    known_words: Sequence[str] | None = None,
    accepts: Callable[[str], object] | None = None,
) -> Rewriter | None:
    """The rewriter of a checked backend; None for "none".

    "auto" is the grammar for a model that knows TagWorld's words only. parts: loads text encoder and tokenizer of the
    model `name`; only the backend "self" calls it. known_words, accepts: the prompts that the picture
    model accepts (see `InstructionRewriter`).
    """
    if backend == AUTO:
        backend = NONE if known_words is None else TAGWORLD
    if backend == NONE:
        return None
    if backend == TAGWORLD:
        from tagmoe.rewrite.tagworld import GrammarRewriter

        return GrammarRewriter()
    vlm: VLM
    try:
        vlm = _self(parts, name) if backend == SELF else _server(backend, vlm_model, seconds)
    except TagMoEError as error:
        # Without a model that writes text, the picture is drawn from the prompt as it is.
        vlm = UnavailableVLM(name if backend == SELF else vlm_model or backend, str(error))
    return InstructionRewriter(
        vlm,
        seconds=seconds,
        known_words=known_words,
        accepts=accepts,
        cache=RewriteCache() if caching else None,
    )


def logged(rewriter: Rewriter) -> Callable[[str, Sequence[Image]], str]:
    """The rewriter, with a line on stderr about each call."""

    def rewrite(instruction: str, images: Sequence[Image]) -> str:
        text = rewriter(instruction, images)
        log_rewriting(rewriter.results[-1])
        return text

    return rewrite


def unasked(rewriter: Rewriter, accepts: Callable[[str], object]) -> Callable[[str, Sequence[Image]], str]:
    """The rewriter of "auto", with a line on stderr about each call.

    accepts: raises UsageError for a prompt that the model refuses. The error then also says why it was not rewritten.
    """

    def rewrite(instruction: str, images: Sequence[Image]) -> str:
        text = rewriter(instruction, images)
        result = rewriter.results[-1]
        if result.status == "fallback":
            try:
                accepts(instruction)
            except UsageError as error:
                raise UsageError(f"{str(error)[:-1]}; and {result.reason}.") from error
        log_rewriting(result)
        return text

    return rewrite


def log_rewriting(result: Rewriting) -> None:
    """Print the result of a rewriting as one line on stderr."""
    by = f"{result.model}, {'kept answer' if result.cached else f'{result.seconds:.1f} s'}"
    if result.status == "ok":
        log(f"rewritten by {by}: {result.text}")
    elif result.status == "unchanged":
        log(f"rewriter ({by}): unchanged, {result.reason}")
    else:
        log(f"not rewritten ({by}), the prompt is used as it is: {result.reason}")


def drawn_facts(result: Rewriting) -> dict[str, Any]:
    """Facts about the rewriting of a prompt, for the picture's metadata."""
    return {
        "raw_prompt": result.raw,
        "rewrite": result.status,
        # A server may name its model by a path, which would reveal something about that machine.
        "rewrite_model": PurePath(result.model).name if result.model.startswith("/") else result.model,
        "rewrite_prompt_version": result.prompt_version,
    }


def _self(parts: Callable[[], tuple[Any, Any]], name: str) -> VLM:
    from tagmoe.vlm.local import LocalVLM

    text_encoder, tokenizer = parts()
    return LocalVLM(text_encoder, tokenizer, name=name)


def _server(url: str, model: str | None, seconds: float) -> VLM:
    from tagmoe.vlm.servers import ChatServers, server_key

    # Two attempts, in case the connection is lost. The total time is limited by the rewriter.
    return ChatServers([url], model or "", key=server_key(), timeout=seconds, attempts=2)
