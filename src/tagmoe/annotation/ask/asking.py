"""Ask for many rows of a store at once, in one process.

`Asking` writes each answer to the ledger of its fragment. It yields a fragment when its last answer is there, with the
new columns in a file that is not committed yet. So any number of processes can ask for fragments of one store.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.annotation.answer import PREFIX, first_rows
from tagmoe.annotation.ask.asker import Asker, RowAnswer, settings_digest
from tagmoe.annotation.ask.doubts import Doubts
from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.annotation.ask.plan import AskPlan
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Filling, Store
from tagmoe.errors import DataError, first_error

READ_ROWS = 16
"""Records whose pictures are read at a time."""
GIVE_UP_AFTER = 20
"""After this many failed rows in a row the run stops, as the server seems to be gone."""
LEDGERS = "annotating"


@dataclass
class Outcome:
    """What a run did.

    asked: number of rows asked, by status. reasons: number of rows by (status, reason), where the status is not ok.
    known: rows whose answer came from a ledger. tagged: rows whose columns for training were set. left: rows that are
    still to be asked. notes: number of rows by what was mended in their answer or left out of their question.
    """

    asked: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: int = 0
    tagged: int = 0
    left: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Add the counts of a part of the run; `left` is known only at the end."""
        self.asked.update(other.asked)
        self.reasons.update(other.reasons)
        self.known += other.known
        self.tagged += other.tagged
        self.notes.update(other.notes)


@dataclass(frozen=True)
class AnnotatedFragment:
    """A fragment whose last answer is there.

    number: of the fragment. filling: its new columns, not yet committed. outcome: the counts of its rows.
    """

    number: int
    filling: Filling
    outcome: Outcome


class Asking:
    """Asks for rows of a store, in the process that made it."""

    def __init__(self, store: Store, annotator: Asker[Any], plan: AskPlan[Any]) -> None:
        self._store, self._annotator, self._plan = store, annotator, plan
        self._failed_in_a_row = 0
        self._doubts = Doubts(annotator.control)
        self._at_work: set[_Fragment] = set()
        # One event loop for all fragments: the annotator's connections belong to a loop.
        self._runner = asyncio.Runner()

    def fragments(
        self, numbers: Sequence[int], limit: int | None = None, count: Callable[[int], None] = lambda rows: None
    ) -> Generator[AnnotatedFragment, None, None]:
        """Ask for the rows of these fragments, and yield each fragment when its last answer is there.

        limit: rows to ask. count: called with the number of rows that were answered since it was called last.
        """
        finished: asyncio.Queue[AnnotatedFragment | None] = asyncio.Queue()
        asking = self._runner.get_loop().create_task(self._ask_all(numbers, limit, count, finished))
        try:
            while (fragment := self._runner.run(finished.get())) is not None:
                yield fragment
        finally:
            asking.cancel()
            self._runner.run(asyncio.wait([asking]))
        asking.result()  # raises what stopped it

    def close(self) -> None:
        """Close the annotator and the event loop."""
        self._runner.run(self._annotator.close())
        self._runner.close()

    async def _ask_all(
        self,
        numbers: Sequence[int],
        limit: int | None,
        count: Callable[[int], None],
        finished: asyncio.Queue[AnnotatedFragment | None],
    ) -> None:
        slots = asyncio.Semaphore(self._plan.in_flight)
        starts = first_rows(self._store)
        self._at_work.clear()
        try:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    if limit == 0:
                        break
                    fragment = _Fragment(self._store, number, starts[number], self._annotator, self._plan, limit)
                    self._at_work.add(fragment)
                    if limit is not None:
                        limit -= len(fragment.wanted)
                    if not fragment.wanted:
                        finished.put_nowait(self._finish(fragment))
                    for row, record in fragment.records():
                        await slots.acquire()
                        task = group.create_task(self._ask(fragment, row, record, count, finished))
                        task.add_done_callback(lambda _: slots.release())
            await self._doubts.settle()
        except BaseExceptionGroup as error:
            raise first_error(error) from None
        finally:
            for fragment in self._at_work:
                fragment.close()
            finished.put_nowait(None)

    def _finish(self, fragment: _Fragment) -> AnnotatedFragment:
        self._at_work.discard(fragment)
        return fragment.finish()

    async def _ask(
        self,
        fragment: _Fragment,
        row: int,
        record: Record,
        count: Callable[[int], None],
        finished: asyncio.Queue[AnnotatedFragment | None],
    ) -> None:
        def keep() -> None:
            fragment.add(row, found)
            count(1)
            if not fragment.pending:
                finished.put_nowait(self._finish(fragment))

        before = self._doubts.count
        found = await self._annotator.annotate(record)
        await self._doubts.weigh(found, before, keep)
        self._failed_in_a_row = self._failed_in_a_row + 1 if found.status == "failed" else 0
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise DataError(
                f"{GIVE_UP_AFTER} rows failed in a row, the last with this reason: {found.reason.rstrip('.')}. The "
                "answers so far are kept; run the same command again when the server answers."
            )


class _Fragment:
    """A fragment at work. wanted: its rows to ask, at most `limit`. pending: number of them without an answer yet."""

    def __init__(
        self,
        store: Store,
        number: int,
        first_row: int,
        annotator: Asker[Any],
        plan: AskPlan[Any],
        limit: int | None,
    ) -> None:
        self._store, self._number, self._first_row = store, number, first_row
        self._column, self._plan, self._seed = plan.column, plan, annotator.seed
        self._rows = [
            row
            for batch in store.fragment(number, [self._column, *plan.beside, *plan.reads], rows=8192)
            for row in batch.to_pylist()
        ]
        self._ledger = Ledger(ledger_folder(store, plan), number, plan.read)
        prefix = settings_digest(annotator.settings)
        # Ignore answers of the ledger that were given under other settings, or that failed: their rows are asked again.
        self._answers = {
            row: found
            for row, found in self._ledger.answers().items()
            if row < len(self._rows) and found.key.startswith(prefix) and found.status != "failed"
        }
        self._outcome = Outcome(known=len(self._answers))
        self.wanted = [
            row
            for row, values in enumerate(self._rows)
            if row not in self._answers
            and _is_stale(values[self._column], prefix, plan)
            and (plan.only is None or plan.only[first_row + row])
        ][:limit]
        self.pending = len(self.wanted)

    def records(self) -> Iterator[tuple[int, Record]]:
        """The wanted rows with their records, of which READ_ROWS are in memory at once."""
        for start in range(0, len(self.wanted), READ_ROWS):
            some = self.wanted[start : start + READ_ROWS]
            yield from zip(some, self._store.records([self._first_row + row for row in some]), strict=True)

    def add(self, row: int, found: RowAnswer) -> None:
        """Keep an answer in the ledger, and count it."""
        self._ledger.add(row, found)
        self._answers[row] = found
        self._outcome.asked[found.status] += 1
        self._outcome.notes.update(found.notes)
        if found.status != "ok":
            self._outcome.reasons[found.status, found.reason] += 1
        self.pending -= 1

    def close(self) -> None:
        """Close the ledger, which stays: a run that was stopped goes on with its answers."""
        self._ledger.close()

    def finish(self) -> AnnotatedFragment:
        """Write the new columns to a file. The ledger stays until they are committed."""
        for row, found in self._answers.items():
            values = self._rows[row]
            self._outcome.tagged += self._plan.take(values, found, self._seed)
            values[self._column] = found.to_row()
        kinds: dict[str, pa.DataType] = {self._column: self._plan.kind}
        if self._outcome.tagged:
            kinds |= self._plan.beside
        table = pa.table(
            {name: pa.array([values[name] for values in self._rows], kind) for name, kind in kinds.items()}
        )
        self.close()
        return AnnotatedFragment(self._number, self._store.prepare(self._number, table), self._outcome)


def _asked_again(plan: AskPlan[Any]) -> set[str]:
    return {"failed", *plan.retry}


def _is_stale(value: Any, prefix: str, plan: AskPlan[Any]) -> bool:
    return value is None or not value["key"].startswith(prefix) or value["status"] in _asked_again(plan)


def stale_rows(store: Store, annotator: Asker[Any], plan: AskPlan[Any]) -> dict[int, int]:
    """Number of rows to ask, by fragment. The SQL filter says of all rows what `_is_stale` says of one value."""
    prefix = settings_digest(annotator.settings)
    if plan.only is not None:
        counts = {}
        for number, first in first_rows(store).items():
            rows = (row[plan.column] for batch in store.fragment(number, [plan.column]) for row in batch.to_pylist())
            counts[number] = sum(plan.only[first + i] and _is_stale(row, prefix, plan) for i, row in enumerate(rows))
        return {number: int(count) for number, count in counts.items() if count}
    statuses = ", ".join(f"'{status}'" for status in sorted(_asked_again(plan)))
    name = f"`{plan.column}`"
    return store.rows_where(f"{name} IS NULL OR {name}.`key` NOT LIKE '{prefix}%' OR {name}.`status` IN ({statuses})")


def ledger_folder(store: Store, plan: AskPlan[Any]) -> Path:
    """The folder of the ledgers of this plan."""
    name = plan.column.removeprefix(PREFIX)
    if plan.ledgers is not None:
        return plan.ledgers / name
    if "://" not in store.uri:
        return Path(store.uri) / LEDGERS / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tagmoe" / LEDGERS / hashlib.sha256(store.uri.encode()).hexdigest()[:16] / name
