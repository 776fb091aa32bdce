"""Import a source into a store, batch by batch. Progress is saved in the store, so an import resumes.

A batch of records and the note on the position after it are one commit: a killed import loses no row and adds none
twice. Records whose id is in the store already are counted as skipped.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tagmoe.data.sources.source import Licence, Row, Source
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import IMPORT_NOTE, Store
from tagmoe.errors import DataError, UsageError
from tagmoe.sentences import reason_of

BATCH_ROWS = 1024
BATCH_BYTES = 256 << 20
"""Bytes of pictures after which a batch is written. Writing takes about four times as much memory."""
NOTE_AFTER = 20_000
"""Native rows after which the position is saved, even if no batch of records is full."""
KNOWN = "already in the store"
BENCHMARK = "benchmark picture"


@dataclass(frozen=True)
class Imported:
    """What an import has done, counted over all calls that resumed it.

    accepted: records added. skipped: records by the reason why they were not. rows: native rows read. bytes: of the
    pictures added. resumed: rows that earlier calls had read. already: the import had been finished by an earlier call.
    """

    accepted: int
    skipped: Mapping[str, int]
    rows: int
    bytes: int
    resumed: int = 0
    already: bool = False


@dataclass
class _State:
    position: int = 0
    rows: int = 0
    accepted: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    finished: bool = False

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> _State:
        names = ("position", "rows", "accepted", "bytes", "finished")
        return cls(**{name: note[name] for name in names}, skipped=Counter(note["skipped"]))

    def note(self, source: Source) -> dict[str, Any]:
        return {**vars(self), "skipped": dict(self.skipped), "source": source.name, "licence": source.licence.name}


def import_source(
    store: Store,
    source: Source,
    *,
    accepted_licences: Collection[str] = (),
    refused_pictures: Collection[str] = (),
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Append the records of a source to a store. If an earlier call did not finish, the import resumes there.

    refused_pictures: SHA-256, in hexadecimal, of pictures that must not be trained on; a record with one is skipped.
    batch_rows, batch_bytes: records, or bytes of pictures, after which a batch is written. progress: called with the
    native rows done and all of them.

    Raises UsageError for a restricted licence that is not in `accepted_licences`. Raises DataError when the source is
    damaged or the store cannot be written; batches written until then stay, and the next call resumes after them.
    """
    check_licence(source, accepted_licences)
    name = note_name(source, accepted_licences, refused_pictures)
    with store.writing():
        note = store.note(name)
        state = _State() if note is None else _State.from_note(note)
        already, resumed = state.finished, state.rows
        if not already:
            batch = _Batch(store, KnownIds(store), state)
            noted = state.rows
            for row in _rows(source, state.position):
                for record in row.records:
                    reason = _refusal(record, accepted_licences, refused_pictures)
                    if reason:
                        state.skipped[reason] += 1
                    else:
                        batch.add(record)
                state.skipped.update(row.skipped)
                state.position, state.rows = row.next, state.rows + 1
                if len(batch) >= batch_rows or batch.nbytes >= batch_bytes or state.rows - noted >= NOTE_AFTER:
                    batch.write(name, source)
                    noted = state.rows
                if progress is not None:
                    progress(state.rows, max(len(source), state.rows))
            state.finished = True
            batch.write(name, source)
    skipped = dict(sorted(state.skipped.items()))
    return Imported(state.accepted, skipped, state.rows, state.bytes, resumed=resumed, already=already)


def check_licence(source: Source, accepted: Collection[str]) -> None:
    """Raise UsageError when the source has a restricted licence that is not accepted."""
    licence = source.licence
    if licence.restricted and licence.name not in accepted:
        raise UsageError(
            f"The source {source.name!r} has the licence {licence.name!r} ({licence.limits}); if that allows what you "
            f"do, add --accept-licence {shlex.quote(licence.name)}."
        )


def note_name(source: Source, accepted: Collection[str], refused: Collection[str]) -> str:
    """Name of the note with the progress. Other files, options, licences or refused pictures give another name."""
    conditions = [dict(source.fingerprint()), sorted(set(accepted)), _digest(sorted(set(refused)))]
    return IMPORT_NOTE + _digest(conditions)[:32]


class _Batch:
    """Records to append as one batch; of several with one id, the first."""

    def __init__(self, store: Store, known: KnownIds, state: _State) -> None:
        self._store, self._known, self._state = store, known, state
        self._records: dict[str, Record] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        if record.id in self._records:
            self._state.skipped[KNOWN] += 1
        else:
            self._records[record.id] = record
            self.nbytes += record.nbytes

    def write(self, name: str, source: Source) -> None:
        """Append the records that are not in the store yet, and save the progress with them."""
        known = self._known.among(list(self._records))
        records = [record for record in self._records.values() if record.id not in known]
        if known:
            self._state.skipped[KNOWN] += len(known)
        self._state.accepted += len(records)
        self._state.bytes += sum(record.nbytes for record in records)
        self._records, self.nbytes = {}, 0
        self._store.append(records, note=(name, self._state.note(source)))
        self._known.add([record.id for record in records])


def _rows(source: Source, start: int) -> Iterator[Row]:
    """The rows of the source. An error of a file reader becomes a DataError that names the source."""
    try:
        yield from source.rows(start)
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        raise DataError(f"The source {source.name!r} cannot be read ({reason}); check its files.") from error


def _refusal(record: Record, accepted: Collection[str], refused: Collection[str]) -> str | None:
    if record.licence not in accepted and Licence.named(record.licence).restricted:
        return f"licence {record.licence} not accepted"
    if refused and any(picture.digest in refused for picture in (*record.images, record.target)):
        return BENCHMARK
    return None


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
