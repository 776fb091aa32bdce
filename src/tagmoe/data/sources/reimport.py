"""Look at a source again that was imported before: take in what has arrived, and find or replace what has changed.

Rows that look as they did (`import_ledger`) are not read. A row has changed when its record has another content than
the record with the same id, or the record that came from the same place and that the source does not give any more. A
row that has only moved in its file has not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tagmoe.data.sources.import_ledger import Ledger
from tagmoe.data.sources.importing import (
    KNOWN,
    Appender,
    Batch,
    Imported,
    Limits,
    State,
    fingerprint_of,
    result,
    rows_of,
)
from tagmoe.data.sources.source import Row, Source
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import SCHEMA, Record, to_row
from tagmoe.data.store.store import Store

CHANGED = "changed since its import"
AMBIGUOUS = "changed since its import, and several records have its origin"
# What annotators and rewriters set, where a row stands, and what follows from other columns.
NOT_COMPARED = ("tags", "tag_provenance", "instruction_rewritten", "origin", "split")
COMPARED = [name for name in SCHEMA.names if name not in NOT_COMPARED]


def look_again(
    store: Store,
    source: Source,
    name: str,
    before: State,
    ledger: Ledger,
    limits: Limits,
    refresh: bool,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """Read the rows that were skipped and those that look otherwise than before. name: of the note.

    Changed records are replaced with `refresh`, and otherwise counted as skipped. Raises DataError as an import does.
    A kill loses nothing: the next call looks again.
    """
    with Appender(store) as appender:
        again = _Again(store, appender, source, name, before, ledger, limits, refresh)
        for row in rows_of(source):
            again.look(row)
            if progress is not None:
                progress(again.state.rows, max(len(source), again.state.rows))
        return again.finish()


class _Again:
    def __init__(
        self,
        store: Store,
        appender: Appender,
        source: Source,
        name: str,
        before: State,
        ledger: Ledger,
        limits: Limits,
        refresh: bool,
    ) -> None:
        self._appender = appender
        self._store, self._source, self._name, self._limits, self._refresh = store, source, name, limits, refresh
        self._before, self._ledger = before, ledger
        # The rows that a killed import read and did not commit are read again.
        ledger.start_over(before.position)
        skipped = ledger.take_skipped()
        self._skipped = {item.row for item in skipped}
        self._without_record = {item.row for item in skipped if item.reason not in (CHANGED, AMBIGUOUS)}
        self._is_new = not before.rows
        self.state = replace(before, rows=0, finished=True, skipped=Counter(), fingerprint=fingerprint_of(source))
        self._ids, self._origins = KnownIds(store), KnownIds(store, ("dataset", "origin"))
        self._batch = Batch(appender, self._ids, self.state, ledger)
        self._seen: set[str] = set()
        self._deferred: list[tuple[Row, int]] = []
        self._replacements: dict[int, Record] = {}
        self._bytes = self._replaced = self._looked = 0
        self._changed: list[str] = []

    def look(self, row: Row) -> None:
        """Take the records of a row, if it was skipped or looks otherwise than before."""
        self.state.rows, self.state.position = self.state.rows + 1, row.next
        looks = self._ledger.digest(row)
        if row.next not in self._skipped and self._ledger.is_unchanged(row, looks):
            return
        self._looked += 1
        had_record = self._ledger.has_read(row) and row.next not in self._without_record
        reasons = list(row.skipped)
        for place, record in enumerate(row.records):
            reason = self._limits.refusal(record)
            if reason:
                reasons.append(reason)
            else:
                self._take(record, row, place, may_have_changed=had_record)
        self._ledger.note(row, looks, reasons)
        if len(self._batch) >= self._limits.batch_rows or self._batch.nbytes >= self._limits.batch_bytes:
            self._write()

    def finish(self) -> Imported:
        """Settle what had to wait for the other rows, and save the progress."""
        for row, place in self._deferred:
            self._settle(row, place)
        self._replace()
        added = self.state.accepted + len(self._batch) - self._before.accepted
        if self._looked or self.state.rows != self._before.rows or not self._before.finished:
            self._write()
            self._ledger.finish()
            self.state.skipped = Counter(self._ledger.reasons())
            added = self.state.accepted - self._before.accepted
            self._store.append((), note=(self._name, self.state.note(self._source)))
        else:
            self.state.skipped = self._before.skipped
        nothing = self._before.finished and not added and not self._replaced
        return result(
            self.state,
            self._ledger,
            already=nothing,
            added=added,
            replaced=self._replaced,
            changed=tuple(self._changed),
        )

    def _write(self) -> None:
        self._batch.write(self._name, self._source)
        self._appender.wait()

    def _take(self, record: Record, row: Row, place: int, *, may_have_changed: bool) -> None:
        self._seen.add(record.id)
        known = self._ids.rows_of([record.id])
        if known:
            number = known[record.id][0]
            (stored,) = self._store.take([number], [*COMPARED, "origin"]).to_pylist()
            if stored.pop("origin") != record.origin:
                self._ledger.skip(row, [KNOWN])
            elif stored != {name: value for name, value in _as_stored(record).items() if name in stored}:
                self._change(number, record, row)
            elif self._is_new:
                self._ledger.skip(row, [KNOWN])
        elif may_have_changed and self._origins.rows_of([_place(record)]):
            # Whether another row gives the old record now, is known at the end.
            self._deferred.append((row, place))
        else:
            self._batch.add(record, row)

    def _settle(self, row: Row, place: int) -> None:
        record = row.records[place]
        rows = self._origins.rows_of([_place(record)])[_place(record)]
        ids = self._store.take(rows, ["id"])["id"].to_pylist()
        old = [number for number, name in zip(rows, ids, strict=True) if name not in self._seen]
        if not old:
            self._batch.add(record, row)
        elif len(old) == 1:
            self._change(old[0], record, row)
        else:
            self._ledger.skip(row, [AMBIGUOUS])

    def _change(self, number: int, record: Record, row: Row) -> None:
        if not self._refresh:
            self._changed.append(row.origin)
            self._ledger.skip(row, [CHANGED])
            return
        self._replacements[number] = record
        self._bytes += record.nbytes
        if self._bytes >= self._limits.batch_bytes:
            self._replace()

    def _replace(self) -> None:
        self._store.replace(self._replacements)
        for number, record in self._replacements.items():
            self._ids.renamed(number, record.id)
        self._replaced += len(self._replacements)
        self._replacements, self._bytes = {}, 0


def _place(record: Record) -> str:
    return f"{record.dataset}\0{record.origin}"


def _as_stored(record: Record) -> dict[str, Any]:
    """A row of SCHEMA as the store gives it back."""
    row = to_row(record)
    return row | {"quality": row["quality"] or [], "instructions": row["instructions"] or []}
