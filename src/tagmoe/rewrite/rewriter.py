"""Task-aware rewriting of an instruction before it is encoded (paper, inference), with the raw one as the fallback.

A model or a server may fail in any way. A rewriter still never raises, never takes longer than its limit, and never
returns a text that loses what the user wrote (`tagmoe.rewrite.checks`). Where it fails, the raw instruction is used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tagmoe.errors import TagMoEError, VocabularyError
from tagmoe.rewrite.cache import RewriteCache
from tagmoe.rewrite.checks import problems
from tagmoe.rewrite.prompt import PROMPT_VERSION, rewrite_question
from tagmoe.sentences import reason_of
from tagmoe.tags import TaskDescriptor
from tagmoe.vlm.question import VLM, Answer, Attachment, Question

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
RewriteStatus = Literal["ok", "unchanged", "fallback"]
"""ok: the text is new. unchanged: the rewriter left the instruction as it is. fallback: the rewriter failed, and the
text is the raw instruction."""
ATTEMPTS = 3
SECONDS = 60.0
PIXELS = 1_000_000
"""Cap of a picture as the model sees it: enough to describe what it shows."""
# Seconds that a call waits beyond its limit, so that the worker itself can report the timeout.
_GRACE = 2.0


@dataclass(frozen=True)
class Rewriting:
    """The outcome of a rewriting. text: the instruction to use, which is `raw` unless the status is ok.

    reason: one sentence, empty when ok. task_guess: the model's guess of the task, None where it gave no known tags.
    kept_constraints: what the model says it kept. attempts: questions asked; 0 when `cached`.
    """

    raw: str
    text: str
    status: RewriteStatus
    reason: str = ""
    task_guess: TaskDescriptor | None = None
    kept_constraints: tuple[str, ...] = ()
    language: str = ""
    attempts: int = 0
    model: str = ""
    prompt_version: str = PROMPT_VERSION
    seconds: float = 0.0
    cached: bool = False

    def as_json(self) -> dict[str, Any]:
        """All fields, the task guess in the paper's form."""
        guess = None if self.task_guess is None else self.task_guess.format()
        return vars(self) | {
            "task_guess": guess,
            "kept_constraints": list(self.kept_constraints),
            "seconds": round(self.seconds, 3),
        }


class InstructionRewriter:
    """Rewrites by any `VLM` (paper 3.2, inference): (instruction, images) -> text. Pipelines take it as `rewriter`.

    attempts: the most questions; each repeats what was wrong with the last answer. seconds: limit of all questions
    together. known_words: the only words that the picture model knows, if they are limited. accepts: raises TagMoEError
    for a text that the picture model refuses. pixels: cap of a picture as the VLM sees it. cache: None keeps nothing.
    results: the outcome of each call, in order.
    """

    def __init__(
        self,
        vlm: VLM,
        *,
        attempts: int = ATTEMPTS,
        seconds: float = SECONDS,
        pixels: int = PIXELS,
        known_words: Sequence[str] | None = None,
        accepts: Callable[[str], object] | None = None,
        cache: RewriteCache | None = None,
    ) -> None:
        self.vlm = vlm
        self.results: list[Rewriting] = []
        self._pixels = pixels
        self._attempts = attempts
        self._seconds = seconds
        self._known_words = known_words
        self._accepts = accepts
        self._cache = cache
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, instruction: str, images: Sequence[Image]) -> str:
        """The instruction to use. Works whether or not an event loop runs in this thread."""
        started = time.monotonic()
        future = self._start(self.rewrite(instruction, images))
        try:
            result = future.result(self._seconds + _GRACE)
        except concurrent.futures.TimeoutError:
            # The worker is blocked: abandon its thread and its event loop.
            future.cancel()
            self._loop = None
            result = replace(self._fallback(instruction, self._late()), seconds=time.monotonic() - started)
        except BaseException:
            # On Ctrl-C stop the model too: while it writes, the process cannot end.
            future.cancel()
            raise
        self.results.append(result)
        return result.text

    async def rewrite(self, instruction: str, images: Sequence[Image]) -> Rewriting:
        """The rewriting of an instruction on its source pictures (none: a picture from text)."""
        started = time.monotonic()
        asked: list[Answer] = []
        try:
            async with asyncio.timeout(self._seconds):
                result = await self._rewrite(instruction, images, asked)
        except TimeoutError:
            result = self._fallback(instruction, self._late())
        except TagMoEError as error:
            result = self._fallback(instruction, str(error))
        except Exception as error:
            result = self._fallback(instruction, f"{type(error).__name__}: {reason_of(error)}")
        return replace(result, attempts=len(asked), seconds=time.monotonic() - started)

    def close(self) -> None:
        """Close the VLM and stop the worker thread."""
        loop = self._loop
        if loop is not None:
            closed = self._start(self.vlm.close())
            concurrent.futures.wait([closed], timeout=5)
            loop.call_soon_threadsafe(loop.stop)
            self._loop = None

    async def _rewrite(self, raw: str, images: Sequence[Image], asked: list[Answer]) -> Rewriting:
        pictures = [attachment_of(image, self._pixels) for image in images]

        def question(wrong: Sequence[str] = (), before: str = "", attempt: int = 1) -> Question:
            return rewrite_question(
                raw, pictures, known_words=self._known_words, problems=wrong, before=before, attempt=attempt
            )

        key = f"{question().key}|{self.vlm.model}|{PROMPT_VERSION}"
        kept = None if self._cache is None else self._cache.read(key)
        if kept is not None and not self._wrong(raw, kept):
            return replace(self._result(raw, kept), cached=True)
        answer = await ask_again(self.vlm, question, lambda value: self._wrong(raw, value), self._attempts, asked)
        if answer.status != "ok":
            return self._fallback(raw, answer.reason or f"the model's answer was {answer.status}")
        if self._cache is not None:
            self._cache.write(key, answer.value)
        return self._result(raw, answer.value)

    def _wrong(self, raw: str, value: Any) -> list[str]:
        found = wording_problems(raw, value)
        text = "" if found else value["rewritten"].strip()
        if not found and self._accepts is not None and text != raw:
            try:
                self._accepts(text)
            except TagMoEError as error:
                found = [str(error)]
        return found

    def _result(self, raw: str, value: Mapping[str, Any]) -> Rewriting:
        text = value["rewritten"].strip()
        same = is_same(raw, value)
        return Rewriting(
            raw,
            raw if same else text,
            "unchanged" if same else "ok",
            reason="the instruction is clear as it is" if same else "",
            task_guess=_guess(value["task_guess"]),
            kept_constraints=tuple(value["kept_constraints"]),
            language=value["language"],
            model=self.vlm.model,
        )

    def _fallback(self, raw: str, reason: str) -> Rewriting:
        return Rewriting(raw, raw, "fallback", reason=" ".join(reason.split()), model=self.vlm.model)

    def _late(self) -> str:
        return f"there was no answer within {self._seconds:g} s"

    def _start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine in the event loop of a worker thread. Connections then live from call to call, and the caller
        may run a loop of its own. The thread is a daemon, so that a blocked worker does not keep the process alive."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(self._loop,), name="rewriter", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def ask_again(
    vlm: VLM,
    question: Callable[[Sequence[str], str, int], Question],
    problems_of: Callable[[Any], list[str]],
    attempts: int,
    asked: list[Answer] | None = None,
) -> Answer:
    """The first answer without problems; invalid after so many attempts; the answer itself if it failed or was refused.

    question: the question by the problems of the last answer, the text of that answer, and the number of the attempt.
    problems_of: the problems of a value that fits the schema. asked: gets an entry for each question, before the wait.
    """
    wrong: list[str] = []
    answer = Answer("invalid", reason="it was not asked for", attempts=0)
    for attempt in range(1, attempts + 1):
        if asked is not None:
            # Counted before the wait, so that a question that hangs is counted too.
            asked.append(Answer("failed"))
        answer = await vlm.ask(question(wrong, answer.text, attempt))
        if answer.status in ("failed", "refused"):
            # The client has already retried where that helps, and a refusal would only be repeated.
            return answer
        wrong = problems_of(answer.value) if answer.status == "ok" else [answer.reason or "it was no answer"]
        if not wrong:
            return answer
    reason = f"no answer of {attempts} could be used; of the last, {'; '.join(wrong)}"
    return replace(answer, status="invalid", value=None, reason=reason)


def wording_problems(raw: str, value: Any) -> list[str]:
    """The problems of an answer to `rewrite_question`; empty when it may be used."""
    return problems(raw, value["rewritten"].strip()) if _fits(value) else ["it does not fit the schema"]


def is_same(raw: str, value: Mapping[str, Any]) -> bool:
    """Whether an answer to `rewrite_question` leaves the instruction as it is."""
    return not value["changed"] or value["rewritten"].split() == raw.split()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then close it."""
    try:
        loop.run_forever()
    finally:
        loop.close()


def attachment_of(image: Image, pixels: int) -> Attachment:
    """A picture as a model sees it, of at most `pixels` pixels: a small one as lossless PNG, others as JPEG."""
    from PIL.Image import Resampling

    from tagmoe.vlm.pictures import encoded, fitting_size

    return Attachment(encoded(image.convert("RGB"), fitting_size(*image.size, pixels), Resampling.BICUBIC))


def _fits(value: Any) -> bool:
    """Whether an answer has the fields of the schema. Checked here too, because a VLM or a cache may not check it."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("rewritten"), str)
        and isinstance(value.get("task_guess"), Mapping)
        and isinstance(value.get("kept_constraints"), list)
        and all(isinstance(text, str) for text in value["kept_constraints"])
        and isinstance(value.get("language"), str)
        and isinstance(value.get("changed"), bool)
    )


def _guess(given: Mapping[str, Any]) -> TaskDescriptor | None:
    try:
        types, kept = (tuple(dict.fromkeys(given.get(name, ()))) for name in ("types", "preservation"))
        return TaskDescriptor((given["scope"],), types, kept)
    except (VocabularyError, KeyError, TypeError, AttributeError):
        return None
