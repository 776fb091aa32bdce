"""The queue of pictures to draw, and the one thread that draws them, those of one key together.

A picture waits for others of its key at most `Limits.wait` seconds. While the thread is busy it waits anyway, and those
that came meanwhile go together. The oldest picture always goes next, so that no key can starve another.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from tagmoe.errors import TagMoEError
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import busy

logger = logging.getLogger(__name__)
LONGEST_WAIT = 60
"""Most seconds that a full queue tells a client to wait."""


class Abandoned(Exception):
    """Nobody waits any more for what is being drawn."""


@dataclass(frozen=True)
class Drawn:
    """A finished picture. routing: what was asked for about its routing, as JSON."""

    image: Image.Image
    routing: dict[str, Any] | None = None


@dataclass(eq=False)
class Work:
    """One picture to draw. key: works of one key may run together. asked: what the painter draws.

    tell: called after each step with the number of steps that are done. previews: after how many steps to show how far
    it is, to `show`. gone: the client has left.
    """

    key: Hashable
    asked: Any
    seed: int
    previews: frozenset[int] = frozenset()
    show: Callable[[Image.Image], None] | None = None
    tell: Callable[[int], None] | None = None
    gone: bool = False
    arrived: float = field(default_factory=time.monotonic)
    answer: Future[Drawn] = field(default_factory=Future)


class Painter(Protocol):
    """What draws. `draw` gives one picture for each work, all of one key, and calls `on_step` after each step."""

    def draw(self, works: Sequence[Work], on_step: Callable[[], None]) -> Sequence[Drawn]: ...

    def begin(self) -> None:
        """Called once in the thread that will draw."""


class Engine:
    """A bounded queue before a painter.

    on_batch: called after each batch with its number of pictures and its seconds.
    """

    def __init__(
        self,
        painter: Painter,
        limits: Limits,
        *,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
    ) -> None:
        self._painter, self._limits, self._on_batch = painter, limits, on_batch
        self._changed = threading.Condition()
        self._waiting: list[Work] = []
        self._places = 0
        self._closing = False
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    def start(self) -> None:
        """Start the thread that draws."""
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Drop what waits, stop after the current step, and wait at most so long for it."""
        with self._changed:
            self._closing = True
            for work in self._waiting:
                work.answer.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def places(self) -> int:
        """Places that are taken: pictures that wait or are drawn, and one of each request that is still read."""
        return self._places

    def take(self, places: int = 1) -> None:
        """Take places for pictures. Raises Refusal (429) where the queue has not so many."""
        with self._changed:
            if self._places + places > self._limits.queue + self._limits.batch:
                raise busy(self._retry_after())
            self._places += places

    def leave(self, places: int) -> None:
        """Give places back."""
        with self._changed:
            self._places -= places

    def submit(self, works: Sequence[Work]) -> None:
        """Queue works whose places are taken."""
        with self._changed:
            self._waiting.extend(works)
            self._changed.notify_all()

    def cancel(self, works: Sequence[Work]) -> None:
        """Nobody waits for these any more: those that wait go at once, a batch of nothing else at its next step."""
        with self._changed:
            for work in works:
                work.gone = True
            self._waiting = [work for work in self._waiting if not work.gone]

    def _retry_after(self) -> int:
        return max(1, min(LONGEST_WAIT, math.ceil(self._seconds * self._places)))

    def _run(self) -> None:
        self._painter.begin()
        while True:
            works = self._next()
            if works is None:
                return
            # From here on nobody can cancel an answer but this thread.
            works = [work for work in works if work.answer.set_running_or_notify_cancel()]
            if not works:
                continue
            started = time.monotonic()
            self._draw(works)
            seconds = time.monotonic() - started
            # Seconds of a picture, the latest batches weighing most.
            self._seconds += 0.3 * (seconds / len(works) - self._seconds)
            self._on_batch(len(works), seconds)

    def _next(self) -> list[Work] | None:
        """The next batch: the oldest work and, up to a full batch, the others of its key. None at the end."""
        with self._changed:
            while True:
                if self._closing:
                    return None
                if not self._waiting:
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                alike = [work for work in self._waiting if work.key == first.key][: self._limits.batch]
                left = first.arrived + self._limits.wait - time.monotonic()
                if len(alike) < self._limits.batch and left > 0:
                    self._changed.wait(left)
                    continue
                self._waiting = [work for work in self._waiting if work not in alike]
                return alike

    def _draw(self, works: list[Work]) -> None:
        def on_step() -> None:
            if self._closing or all(work.gone for work in works):
                raise Abandoned

        try:
            drawn = self._painter.draw(works, on_step)
        except Abandoned:
            for work in works:
                work.answer.set_exception(Abandoned())
        except Exception as error:
            if len(works) > 1:
                # What is wrong with one request is no fault of the others.
                for work in works:
                    self._draw([work])
                return
            if not isinstance(error, TagMoEError):
                logger.exception("A picture could not be drawn.")
            works[0].answer.set_exception(error)
        else:
            for work, one in zip(works, drawn, strict=True):
                work.answer.set_result(one)
