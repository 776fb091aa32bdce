"""What becomes of works while they are drawn, as a stream of events: for server-sent events and for the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from tagmoe.serve.work import Engine, Work


@dataclass(frozen=True)
class Event:
    """What happened to a work: `steps` of its steps are done, or there is a preview, or it has ended (`ended`)."""

    work: Work
    steps: int = 0
    preview: Image | None = None
    ended: bool = False


def preview_steps(previews: int, steps: int) -> list[int]:
    """After which steps to show a preview: evenly spaced, never after the last; fewer where there are few steps."""
    return sorted({round(steps * (number + 1) / (previews + 1)) for number in range(previews)} - {0, steps})


async def follow(
    engine: Engine, works: Sequence[Work], previews: Sequence[int] = (), *, counts: bool = False
) -> AsyncIterator[Event]:
    """Queue works and give what happens to them, until all have ended; whoever stops earlier cancels them himself.

    previews: after which steps to show one. counts: also give an event for each step.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[Event] = asyncio.Queue()

    def hand(event: Event) -> None:
        # The loop may have ended while the last step was drawn.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(came.put_nowait, event)

    for work in works:
        work.previews = frozenset(previews)
        work.show = _showing(hand, work)
        work.tell = _telling(hand, work) if counts else None
        work.answer.add_done_callback(_ending(hand, work))
    engine.submit(works)
    left = len(works)
    while left:
        event = await came.get()
        left -= event.ended
        yield event


def _showing(hand: Callable[[Event], None], work: Work) -> Callable[[Image], None]:
    return lambda image: hand(Event(work, preview=image))


def _telling(hand: Callable[[Event], None], work: Work) -> Callable[[int], None]:
    return lambda steps: hand(Event(work, steps=steps))


def _ending(hand: Callable[[Event], None], work: Work) -> Callable[[Any], None]:
    return lambda _: hand(Event(work, ended=True))
