"""Annotating a store: every record gets an annotator's answer in the column `annotation_NAME` (paper 3.2).

Rows are asked side by side over the borders of fragments; a fragment is committed when its last answer is there, and
until then its answers lie in a ledger. So a killed run asks nothing twice that has been answered. One bad row costs
its own status and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.annotation.answer import ANNOTATION, Annotation, column_of
from tagmoe.annotation.ask.annotators import Annotator, settings_digest
from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.engine import Engine, run
from tagmoe.data.store.record import PARTIAL, PROVENANCE, SCHEMA, Record, TagProvenance, from_row
from tagmoe.data.store.store import Filling, Store
from tagmoe.errors import DataError, TagMoEError, UsageError
from tagmoe.vlm.question import STATUSES, Status

READ_ROWS = 16
"""Records whose pictures are read at once."""
GIVE_UP_AFTER = 20
"""Rows that fail one after the other, with none answered between them, before the run stops: the server is gone."""
LEDGERS = "annotating"


@dataclass(frozen=True)
class Plan:
    """What is asked, and what becomes of it.

    name: of the annotator's column. retry: statuses that are asked again; failed always is. in_flight: rows asked side
    by side. replace_tags: the canonical tags are set from ok answers whoever gave them, not only where nobody else did.
    ledgers: folder for answers that are not committed yet; by default in the store, or in the user's cache for a store
    at an address.
    """

    name: str
    retry: frozenset[Status] = frozenset()
    in_flight: int = 16
    replace_tags: bool = False
    ledgers: Path | None = None

    def __post_init__(self) -> None:
        column_of(self.name)
        if self.in_flight < 1:
            raise UsageError(f"The number of rows in flight is {self.in_flight}; give 1 or more.")
        unknown = sorted(set(self.retry) - set(STATUSES))
        if unknown or "ok" in self.retry:
            named = unknown[0] if unknown else "ok"
            raise UsageError(f"The status to ask again is {named!r}; it is one of invalid, refused, failed.")


@dataclass
class Outcome:
    """What a run did. asked: rows, by status now. reasons: of those that are not ok. known: rows whose answer came from
    a ledger. tagged: rows whose canonical tags were set. left: rows that are still to be asked."""

    asked: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: int = 0
    tagged: int = 0
    left: int = 0

    def add(self, other: Outcome) -> None:
        """Count in what was done elsewhere."""
        self.asked.update(other.asked)
        self.reasons.update(other.reasons)
        self.known += other.known
        self.tagged += other.tagged


def annotate_store(
    store: Store,
    make: Callable[[], Annotator],
    plan: Plan,
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Ask for every row that has no answer under the annotator's settings; killed, the same call goes on.

    make: makes the annotator, in each process that needs it, and must pickle for several. limit: rows to ask; with
    several processes the run ends with the fragment in which it is reached.

    Raises UsageError for settings that cannot work, DataError when the server is gone or nothing can be written: what
    was answered is kept.
    """
    column = column_of(plan.name)
    result = Outcome()
    annotator = make()
    with store.writing():
        store.declare([pa.field(column, ANNOTATION)])
        waiting = store.rows_where(_stale(column, annotator, plan))
        total = sum(waiting.values())
        report = _reporter(progress, min(total, limit or total))
        report(0)
        if engine == "local" and workers == 1:
            work = _Run(store, annotator, plan, limit, report)

            def commit(number: int, table: pa.Table) -> None:
                store.fill(number, table)

            try:
                asyncio.run(work.fragments(list(waiting), commit))
            finally:
                result.add(work.result)
        else:
            asyncio.run(annotator.close())
            with closing(
                run(
                    _within(waiting, limit),
                    AnnotateWork(store.uri, store.version, make, plan),
                    engine=engine,
                    workers=workers,
                    address=address,
                )
            ) as results:
                failures = []
                for done in results:
                    if done.error is not None:
                        failures.append(done.error)
                        break
                    filling, part = done.value
                    store.commit(filling)
                    Ledger(_ledgers(store, plan), done.fragment).remove()
                    result.add(part)
                    report(sum(result.asked.values()))
            if failures:
                raise DataError(f"Annotating stopped; run the same command again. The first failure: {failures[0]}")
        result.left = sum(store.rows_where(_stale(column, annotator, plan)).values())
    return result


def take_tags(values: dict[str, Any], found: Annotation, name: str, seed: int, *, replace_tags: bool = False) -> bool:
    """Make an ok answer the canonical tags of a row (`tags`, `tag_provenance`) where they are nobody's, partial or this
    annotator's own, or with `replace_tags` whoever's; returns whether that was done."""
    given = values["tag_provenance"] or {}
    ours = values["tags"] is None or given.get("status") == PARTIAL or given.get("annotator") == name
    if found.status != "ok" or not (ours or replace_tags):
        return False
    provenance = TagProvenance(name, found.model, found.rules_version, seed)
    values["tags"], values["tag_provenance"] = sorted(found.tags or ()), vars(provenance)
    return True


@dataclass
class AnnotateWork:
    """Annotates a fragment of the store at `uri` as it was at `version`: the `work` of an engine."""

    uri: str
    version: int
    make: Callable[[], Annotator]
    plan: Plan
    _open: tuple[Store, Annotator, asyncio.AbstractEventLoop] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}

    def __call__(self, fragment: int) -> tuple[Filling, Outcome]:
        if self._open is None:
            # one loop for all fragments of this process: connections belong to a loop
            loop = asyncio.new_event_loop()
            self._open = Store.open(self.uri, version=self.version), self.make(), loop
        store, annotator, loop = self._open
        prepared: list[Filling] = []
        work = _Run(store, annotator, self.plan, None, lambda done: None, closes=False, keeps_ledger=True)
        loop.run_until_complete(
            work.fragments([fragment], lambda number, table: prepared.append(store.prepare(number, table)))
        )
        return prepared[0], work.result


class _Run:
    """One event loop's part of the work."""

    def __init__(
        self,
        store: Store,
        annotator: Annotator,
        plan: Plan,
        limit: int | None,
        report: Callable[[int], None],
        *,
        closes: bool = True,
        keeps_ledger: bool = False,
    ) -> None:
        self._store, self._annotator, self._plan = store, annotator, plan
        self._left = limit
        self._report, self._closes, self._keeps_ledger = report, closes, keeps_ledger
        self._failed_in_a_row = 0
        self.result = Outcome()

    async def fragments(self, numbers: Sequence[int], commit: Callable[[int, pa.Table], None]) -> None:
        """Ask for the rows of these fragments, and hand over the columns of each when its answers are there."""
        slots = asyncio.Semaphore(self._plan.in_flight)
        starts = _starts(self._store)
        try:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    if self._left == 0:
                        break
                    part = _Part(self._store, number, starts[number], self._annotator, self._plan)
                    self.result.known += len(part.ledger.known)
                    wanted = part.wanted if self._left is None else part.wanted[: self._left]
                    if self._left is not None:
                        self._left -= len(wanted)
                    part.pending = len(wanted)
                    if not wanted:
                        self._finish(part, commit)
                    for record, row in _read(self._store, part, wanted):
                        await slots.acquire()
                        group.create_task(self._ask(part, row, record, slots, commit))
        except BaseExceptionGroup as error:
            raise _first(error) from None
        finally:
            if self._closes:
                await self._annotator.close()

    async def _ask(
        self, part: _Part, row: int, record: Record, slots: asyncio.Semaphore, commit: Callable[[int, pa.Table], None]
    ) -> None:
        try:
            found = await self._annotator.annotate(record)
        finally:
            slots.release()
        part.ledger.add(row, found)
        self.result.asked[found.status] += 1
        if found.status != "ok":
            self.result.reasons[found.status, found.reason] += 1
        self._report(sum(self.result.asked.values()))
        self._failed_in_a_row = self._failed_in_a_row + 1 if found.status == "failed" else 0
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise DataError(
                f"{GIVE_UP_AFTER} rows failed one after the other, the last so: {found.reason.rstrip('.')}. What was "
                "answered is kept; run the same command again when the server answers."
            )
        part.pending -= 1
        if not part.pending:
            self._finish(part, commit)

    def _finish(self, part: _Part, commit: Callable[[int, pa.Table], None]) -> None:
        table, tagged = part.columns()
        commit(part.number, table)
        self.result.tagged += tagged
        # An engine's driver commits later, and removes the ledger then.
        (part.ledger.close if self._keeps_ledger else part.ledger.remove)()


class _Part:
    """A fragment at work. wanted: rows in it to ask; pending: those without an answer yet."""

    def __init__(self, store: Store, number: int, start: int, annotator: Annotator, plan: Plan) -> None:
        self.number, self.start, self._plan = number, start, plan
        self._column, self._annotator = column_of(plan.name), annotator
        self._rows = [
            row
            for batch in store.fragment(number, [self._column, "tags", "tag_provenance"], rows=8192)
            for row in batch.to_pylist()
        ]
        self.ledger = Ledger(_ledgers(store, plan), number)
        prefix = settings_digest(annotator.settings)
        # What was answered under other settings, or is to be asked again, is not known.
        self.ledger.known = {
            row: found
            for row, found in self.ledger.known.items()
            if row < len(self._rows) and found.key.startswith(prefix) and found.status != "failed"
        }
        self.wanted = [
            row
            for row, values in enumerate(self._rows)
            if row not in self.ledger.known and _is_stale(values[self._column], prefix, plan)
        ]
        self.pending = len(self.wanted)

    def columns(self) -> tuple[pa.Table, int]:
        """The fragment's columns with the new answers, and how many rows got canonical tags."""
        tagged = 0
        for row, found in self.ledger.known.items():
            values = self._rows[row]
            values[self._column] = found.to_row()
            tagged += take_tags(
                values, found, self._plan.name, self._annotator.seed, replace_tags=self._plan.replace_tags
            )
        kinds: dict[str, pa.DataType] = {self._column: ANNOTATION}
        if tagged:
            kinds |= {"tags": SCHEMA.field("tags").type, "tag_provenance": PROVENANCE}
        arrays = {name: pa.array([values[name] for values in self._rows], kind) for name, kind in kinds.items()}
        return pa.table(arrays), tagged


def _read(store: Store, part: _Part, rows: Sequence[int]) -> Iterator[tuple[Record, int]]:
    for start in range(0, len(rows), READ_ROWS):
        some = rows[start : start + READ_ROWS]
        table = store.take([part.start + row for row in some], SCHEMA.names)
        for values, row in zip(table.to_pylist(), some, strict=True):
            yield from_row(values), row


def _asked_again(plan: Plan) -> set[str]:
    return {"failed", *plan.retry}


def _is_stale(value: Any, prefix: str, plan: Plan) -> bool:
    return value is None or not value["key"].startswith(prefix) or value["status"] in _asked_again(plan)


def _stale(column: str, annotator: Annotator, plan: Plan) -> str:
    """As `_is_stale`, in SQL."""
    prefix = settings_digest(annotator.settings)
    statuses = ", ".join(f"'{status}'" for status in sorted(_asked_again(plan)))
    name = f"`{column}`"
    return f"{name} IS NULL OR {name}.`key` NOT LIKE '{prefix}%' OR {name}.`status` IN ({statuses})"


def _starts(store: Store) -> dict[int, int]:
    starts, row = {}, 0
    for number in store.fragments():
        starts[number] = row
        row += store.fragment_rows(number)
    return starts


def _within(waiting: dict[int, int], limit: int | None) -> list[int]:
    chosen, rows = [], 0
    for number, count in waiting.items():
        if limit is not None and rows >= limit:
            break
        chosen.append(number)
        rows += count
    return chosen


def _ledgers(store: Store, plan: Plan) -> Path:
    if plan.ledgers is not None:
        return plan.ledgers / plan.name
    if "://" not in store.uri:
        return Path(store.uri) / LEDGERS / plan.name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tagmoe" / LEDGERS / hashlib.sha256(store.uri.encode()).hexdigest()[:16] / plan.name


def _reporter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    return (lambda done: None) if progress is None else lambda done: progress(done, total)


def _first(group: BaseExceptionGroup) -> BaseException:
    """What stopped a group of tasks: an error that has a sentence for the user before any other."""
    errors = list(_leaves(group))
    return next((error for error in errors if isinstance(error, TagMoEError)), errors[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
