"""Ask a model about many cases at once: refusals in doubt are held, and a server that is gone ends the work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from tagmoe.annotation.ask.doubts import Doubts
from tagmoe.errors import DataError, first_error
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.run_folder import Kept, Lines
from tagmoe.vlm.control import control_question
from tagmoe.vlm.question import VLM, Answer, Question, Status

R = TypeVar("R", bound=Kept)

GIVE_UP_AFTER = 20
"""So many cases in a row without an answer end the command; what was answered is kept."""


def counting(done: int, on_cases: Callable[[int], None]) -> Callable[[], None]:
    """Says `done` now, and one more at each call."""
    numbers = count(done)

    def one_more() -> None:
        on_cases(next(numbers))

    one_more()
    return one_more


@dataclass(frozen=True)
class _Verdict:
    """The outcome of a case, as `Doubts` weighs it."""

    status: Status
    reason: str
    key: str = ""
    by_server: bool = True
    notes: tuple[str, ...] = ()

    def to_row(self) -> dict[str, Any]:
        return {}


class CaseAsker:
    """Asks one model. A refusal is kept once a harmless question like the first one is still answered."""

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm
        self._doubts = Doubts(self._control)
        self._like: Question | None = None
        self._failed_in_a_row = 0

    async def each(self, cases: Sequence[Case], in_flight: int, ask: Callable[[Case], Awaitable[None]]) -> None:
        """Call `ask` for every case, `in_flight` at a time. Raises its first error, and DataError as `weigh` does."""
        slots = asyncio.Semaphore(in_flight)

        async def one(case: Case) -> None:
            try:
                await ask(case)
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for case in cases:
                    await slots.acquire()
                    group.create_task(one(case))
            await self._doubts.settle()
        except BaseExceptionGroup as error:
            raise first_error(error) from None

    async def keep_each(
        self,
        cases: Sequence[Case],
        in_flight: int,
        ask: Callable[[Case, Callable[[R, Status], None]], Awaitable[None]],
        file: Lines,
        rows: dict[str, R],
        on_kept: Callable[[], None],
    ) -> Counter[str]:
        """Ask about every case; each row that `ask` hands on, with its status, goes into the file and `rows` at once.

        Returns how many there are of each status. Closes the connection to the model. Raises as `each` does.
        """
        asked: Counter[str] = Counter()

        def keep(row: R, status: Status) -> None:
            file.add(row)
            rows[row.case] = row
            asked[status] += 1
            on_kept()

        try:
            await self.each(cases, in_flight, lambda case: ask(case, keep))
        finally:
            await self._vlm.close()
        return asked

    def begin(self, question: Callable[[], Question]) -> int:
        """Before a case is asked: a number for `weigh`. question: one of its questions, made where none is known."""
        if self._like is None:
            self._like = question()
        return self._doubts.count

    async def weigh(self, status: Status, reason: str, begun: int, keep: Callable[[], None]) -> None:
        """Keep the outcome of a case at once, or when a refusal is no longer in doubt.

        Raises DataError when the server answers no more.
        """
        await self._doubts.weigh(_Verdict(status, reason), begun, keep)
        self._failed_in_a_row = self._failed_in_a_row + 1 if status == "failed" else 0
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise DataError(
                f"{GIVE_UP_AFTER} cases in a row got no answer, the last with this reason: {reason.rstrip('.')}. The "
                "answers so far are kept; run the same command again when the server answers."
            )

    async def _control(self) -> Answer:
        assert self._like is not None
        return await self._vlm.ask(control_question(self._like))
