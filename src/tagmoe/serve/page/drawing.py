"""One wish of the page, from its fields to pictures, by the way that requests of the API go. It knows no Gradio."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from tagmoe.errors import UsageError
from tagmoe.serve.api import Server
from tagmoe.serve.asked import read_fields
from tagmoe.serve.body import Body
from tagmoe.serve.following import follow, preview_steps
from tagmoe.serve.painter import Scene
from tagmoe.serve.prompts import with_reason
from tagmoe.serve.refusal import Refusal, late
from tagmoe.serve.work import Work

PREVIEWS = 6
"""Most previews of a picture; each costs a decoding."""


@dataclass(frozen=True)
class Progress:
    """done: steps of the first picture. preview: the first picture so far, where there is a new one."""

    done: int
    steps: int
    preview: Image | None = None


@dataclass(frozen=True)
class Result:
    """A finished picture. routing: the page that explains it, and the tags, where they were asked for."""

    image: Image
    seed: int
    routing: Mapping[str, Any] | None


@dataclass(frozen=True)
class Finished:
    """The end of a wish. instruction: as it was written; `scene.prompt` is what was drawn. seconds: from the start."""

    results: tuple[Result, ...]
    instruction: str
    scene: Scene
    seconds: float


async def draw(server: Server, fields: Mapping[str, Any], files: Sequence[bytes]) -> AsyncIterator[Progress | Finished]:
    """Draw what the fields say; they have the names of the API. files: encoded pictures.

    Whoever stops asking for more cancels the work. Raises Refusal, and UsageError for what the pipeline refuses late.
    """
    started = time.monotonic()
    engine, limits = server.engine, server.limits
    engine.take()
    held, works = 1, list[Work]()
    try:
        asked = read_fields(fields, limits, edits=bool(files))
        if len(files) > limits.images:
            raise Refusal(f"There are {len(files)} pictures; at most {limits.images} are allowed.", "image")
        pictures, _ = await server.aside(server.decoded, Body(pictures=list(files)))
        rewriting = await server.prompts.rewritten(asked.prompt, pictures)
        prompt = asked.prompt if rewriting is None else rewriting.text
        try:
            scene = await server.aside(server.painter.check, asked, pictures, None, prompt)
        except Refusal as refusal:
            raise with_reason(refusal, rewriting) from None
        if asked.n > 1:
            engine.take(asked.n - 1)
            held = asked.n
        first = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        works = [Work(scene.key, scene, first + number) for number in range(asked.n)]
        yield Progress(0, scene.steps)
        events = follow(engine, works, preview_steps(PREVIEWS, scene.steps), counts=True)
        done = 0
        while True:
            try:
                # Gradio asks for each value in a task of its own, so no `asyncio.timeout` may span a yield.
                event = await asyncio.wait_for(anext(events), max(0.0, started + limits.seconds - time.monotonic()))
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise late() from None
            if event.work is works[0] and not event.ended:
                done = max(done, event.steps)
                yield Progress(done, scene.steps, event.preview)
        drawn = [work.answer.result() for work in works]
        results = [Result(one.image, work.seed, one.routing) for one, work in zip(drawn, works, strict=True)]
        yield Finished(tuple(results), asked.prompt, scene, time.monotonic() - started)
    except UsageError as error:
        raise Refusal(str(error)) from None
    finally:
        engine.cancel(works)
        engine.leave(held)
        if works and not all(work.answer.done() for work in works):
            server.metrics.left.inc()
