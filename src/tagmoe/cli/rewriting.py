"""Who rewrites an instruction for a command: --rewrite of `edit` and `generate`, --backend of `rewrite`."""

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

NONE, SELF, TAGWORLD = "none", "self", "tagworld"
BACKENDS = "self (the chat model inside the model's text encoder), the URL of a server, tagworld (its grammar), or none"

Rewrite = Annotated[
    str,
    typer.Option("--rewrite", metavar="BACKEND", help=f"Who words the prompt better before it is used: {BACKENDS}."),
]
RewriteTimeout = Annotated[
    float,
    typer.Option("--rewrite-timeout", min=0.1, help="Seconds of all attempts; after them the prompt is used as it is."),
]
RewriteCaching = Annotated[
    bool, typer.Option("--rewrite-cache/--no-rewrite-cache", help="Keep answers, and use those of earlier calls.")
]


class Rewriter(Protocol):
    """What the pipeline takes as `rewriter`, and what became of its calls."""

    results: list[Rewriting]

    def __call__(self, instruction: str, images: Sequence[Image]) -> str: ...

    def close(self) -> None: ...


class UnavailableVLM:
    """A VLM that cannot be asked, for the reason that it gives."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self._reason = reason

    async def ask(self, _: Question) -> Answer:
        """The reason."""
        return Answer("failed", reason=self._reason)

    async def close(self) -> None:
        """Nothing is held."""


def check_backend(backend: str, vlm_model: str | None) -> None:
    """Refuse a backend before anything is loaded. Raises UsageError for what is none, MissingError for an extra."""
    if backend in (NONE, TAGWORLD):
        return
    if backend == SELF:
        need_vlm_extra("llguidance")
        return
    if not re.match(r"https?://[^/\s]", backend):
        raise UsageError(f"The rewriter is {backend!r}; give {BACKENDS}.")
    if "@" in backend.partition("//")[2].partition("/")[0]:
        # It would end up in the reasons and metadata. Not repeated here, as it is a secret.
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
    """The rewriter of a checked backend, None for none.

    parts: gives text encoder and tokenizer of the model called `name`, asked of the backend self. known_words,
    accepts: what the picture model takes (see `InstructionRewriter`).
    """
    if backend == NONE:
        return None
    if backend == TAGWORLD:
        from tagmoe.rewrite.tagworld import GrammarRewriter

        return GrammarRewriter()
    vlm: VLM
    try:
        vlm = _self(parts, name) if backend == SELF else _server(backend, vlm_model, seconds)
    except TagMoEError as error:
        # A model that writes no text is no reason not to draw.
        vlm = UnavailableVLM(name if backend == SELF else vlm_model or backend, str(error))
    return InstructionRewriter(
        vlm,
        seconds=seconds,
        known_words=known_words,
        accepts=accepts,
        cache=RewriteCache() if caching else None,
    )


def logged(rewriter: Rewriter) -> Callable[[str, Sequence[Image]], str]:
    """The rewriter, which says what became of each call."""

    def rewrite(instruction: str, images: Sequence[Image]) -> str:
        text = rewriter(instruction, images)
        log_rewriting(rewriter.results[-1])
        return text

    return rewrite


def log_rewriting(result: Rewriting) -> None:
    """What became of a rewriting, in one line on stderr."""
    by = f"{result.model}, {'kept answer' if result.cached else f'{result.seconds:.1f} s'}"
    if result.status == "ok":
        log(f"rewritten by {by}: {result.text}")
    elif result.status == "unchanged":
        log(f"rewriter ({by}): unchanged, {result.reason}")
    else:
        log(f"not rewritten ({by}), the prompt is used as it is: {result.reason}")


def drawn_facts(result: Rewriting) -> dict[str, Any]:
    """What a picture's metadata say of the rewriting of its prompt."""
    return {
        "raw_prompt": result.raw,
        "rewrite": result.status,
        # A server's name for a model can be a path, which would tell of a machine.
        "rewrite_model": PurePath(result.model).name if result.model.startswith("/") else result.model,
        "rewrite_prompt_version": result.prompt_version,
    }


def _self(parts: Callable[[], tuple[Any, Any]], name: str) -> VLM:
    from tagmoe.vlm.local import LocalVLM

    text_encoder, tokenizer = parts()
    return LocalVLM(text_encoder, tokenizer, name=name)


def _server(url: str, model: str | None, seconds: float) -> VLM:
    from tagmoe.vlm.servers import ChatServers, server_key

    # Twice: a connection that was lost is worth one more try, and the whole has a limit of its own.
    return ChatServers([url], model or "", key=server_key(), timeout=seconds, attempts=2)
