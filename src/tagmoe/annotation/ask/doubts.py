"""Refusals that may be about the server's account: they are held until it is certain that they speak of their rows.

A refusal stands if a row that was asked after it gets an answer, or if the control question does. Else every later
question would be refused as well, so the run stops, and the rows stay open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from tagmoe.annotation.ask.asker import RowAnswer
from tagmoe.errors import DataError
from tagmoe.vlm.question import Answer

MOST_HELD = 10
"""So many refusals in a row are held; then the control question is asked."""


class Doubts:
    """The refusals in doubt. ask_control: asks the control question."""

    def __init__(self, ask_control: Callable[[], Awaitable[Answer]]) -> None:
        self._ask_control = ask_control
        self._held: deque[Callable[[], None]] = deque()
        self._released = 0
        self._lock = asyncio.Lock()

    @property
    def count(self) -> int:
        """Number of refusals so far. Take it before a row is asked, and give it to `weigh`."""
        return self._released + len(self._held)

    async def weigh(self, found: RowAnswer, before: int, keep: Callable[[], None]) -> None:
        """Call `keep` as soon as the answer is no longer in doubt: at once, later, or never.

        before: `count` before the row was asked. Raises DataError when the control question is not answered either.
        """
        if found.status == "refused" and found.by_server:
            self._held.append(keep)
            if len(self._held) >= MOST_HELD and not self._lock.locked():
                await self.settle()
            return
        if found.status != "failed":
            self._release(before)
        keep()

    async def settle(self) -> None:
        """Ask the control question if a refusal is in doubt. Raises DataError when it is not answered either."""
        async with self._lock:
            upto = self.count
            if not self._held:
                return
            answer = await self._ask_control()
            if answer.status in ("refused", "failed"):
                raise DataError(
                    f"No question is answered any more, not even a harmless one ({answer.reason.rstrip('.')}); the "
                    "answers so far are kept, and the same command asks the other rows when the server answers."
                )
            self._release(upto)

    def _release(self, upto: int) -> None:
        while self._held and self._released < upto:
            self._released += 1
            self._held.popleft()()
