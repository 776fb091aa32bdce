"""Import a source into a store, batch by batch. Progress is saved in the store, so an import resumes.

A batch of records and the note on the position after it are one commit: a killed import loses no row and adds none
twice. Records whose id is in the store already are counted as skipped. An import that has finished and is run again
looks at the rows that were skipped and at those whose files have changed (`tagmoe.data.sources.reimport`).
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

from tagmoe.data.sources.benchmark_pictures import BenchmarkPictures
from tagmoe.data.sources.import_ledger import Ledger, Skipped
from tagmoe.data.sources.source import Licence, Row, Source
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import Record, as_table
from tagmoe.data.store.store import IMPORT_NOTE, Store
from tagmoe.errors import DataError, UsageError
from tagmoe.sentences import reason_of

BATCH_ROWS = 1024
BATCH_BYTES = 256 << 20
"""Bytes of pictures after which a batch is written. Writing takes about four times as much memory, and the next batch
is read meanwhile."""
NOTE_AFTER = 20_000
"""Native rows after which the position is saved, even if no batch of records is full."""
KNOWN = "already in the store"
BENCHMARK = "benchmark picture"
LIKE_BENCHMARK = "picture like one of a benchmark"
NO_PICTURES = BenchmarkPictures()


@lru_cache(1024)
def is_restricted(licence: str) -> bool:
    """Whether a user must accept the licence of this name."""
    return Licence.named(licence).restricted


@dataclass(frozen=True)
class Imported:
    """What an import has done, counted over all calls that resumed it.

    accepted: records added. skipped: records by the reason why they were not. rows: native rows read. bytes: of the
    pictures added. resumed: rows that earlier calls had read. already: the import had been finished by an earlier call,
    and nothing was added or replaced by this one. added, replaced: records by this call alone. changed: the rows that
    are other ones than when they were imported; they stay as they were, unless they are to be replaced. skipped_rows:
    the rows without their records. skipped_file: the file that lists them.
    """

    accepted: int
    skipped: Mapping[str, int]
    rows: int
    bytes: int
    resumed: int = 0
    already: bool = False
    added: int = 0
    replaced: int = 0
    changed: tuple[str, ...] = ()
    skipped_rows: tuple[Skipped, ...] = field(default=(), repr=False)
    skipped_file: str | None = None


class Licensed(Protocol):
    """What has a name and a licence, as a source has."""

    @property
    def name(self) -> str: ...
    @property
    def licence(self) -> Licence: ...


@dataclass
class State:
    """How far an import is: what its note in the store says."""

    fingerprint: str
    position: int = 0
    rows: int = 0
    accepted: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    finished: bool = False

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> State:
        names = ("fingerprint", "position", "rows", "accepted", "bytes", "finished")
        return cls(**{name: note[name] for name in names}, skipped=Counter(note["skipped"]))

    def note(self, source: Source) -> dict[str, Any]:
        about = {"source": source.name, "licence": source.licence.name, "identity": _digest(dict(source.identity()))}
        return {**vars(self), "skipped": dict(self.skipped), **about}


@dataclass(frozen=True)
class Limits:
    """What an import refuses, and how large its batches are.

    accepted_licences: restricted ones that may come in. refused_pictures: those that may not.
    """

    accepted_licences: Collection[str] = ()
    refused_pictures: BenchmarkPictures = NO_PICTURES
    batch_rows: int = BATCH_ROWS
    batch_bytes: int = BATCH_BYTES

    def licence_refusal(self, licence: str) -> str | None:
        """Why records of this licence must not come in."""
        if licence not in self.accepted_licences and is_restricted(licence):
            return f"licence {licence} not accepted"
        return None

    def refusal(self, record: Record) -> str | None:
        """Why a record must not come in."""
        refused = self.refused_pictures
        if (reason := self.licence_refusal(record.licence)) is not None:
            return reason
        if not refused.digests:
            return None
        if any(map(refused.has, (*record.images, record.target))):
            return BENCHMARK
        if any(refused.has_like(picture) for picture in (*record.images, record.target) if picture.role != "mask"):
            return LIKE_BENCHMARK
        return None


def import_source(
    store: Store,
    source: Source,
    *,
    accepted_licences: Collection[str] = (),
    refused_pictures: BenchmarkPictures = NO_PICTURES,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    refresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Append the records of a source to a store. If an earlier call did not finish, the import resumes there.

    refused_pictures: pictures that must not be trained on; a record with one, or with one like it, is skipped.
    batch_rows, batch_bytes: records, or bytes of pictures, after which a batch is written. refresh: replace records
    whose rows have changed since their import. progress: called with the native rows done and all.

    Raises UsageError for a restricted licence that is not in `accepted_licences`. Raises DataError when the source is
    damaged or the store cannot be written; batches written until then stay, and the next call resumes after them.
    """
    from tagmoe.data.sources.reimport import look_again

    check_licence(source, accepted_licences)
    limits = Limits(accepted_licences, refused_pictures, batch_rows, batch_bytes)
    name = note_name(source, accepted_licences, refused_pictures)
    with store.writing():
        note = store.note(name)
        now, identity = fingerprint_of(source), _digest(dict(source.identity()))
        state = State(now) if note is None else State.from_note(note)
        ledger = Ledger(store.uri, source, name)
        known = any(other.get("identity") == identity for other in store.notes(IMPORT_NOTE).values())
        has_ended = known and (note is None or state.finished or state.fingerprint != now)
        # With other options it is another import: its records replace those that have their ids.
        if has_ended or (refresh and note is None and len(store)):
            return look_again(store, source, name, state, ledger, limits, refresh, progress)
        resumed, before = state.rows, state.accepted
        _import(store, source, name, state, ledger, limits, progress)
    return result(state, ledger, resumed=resumed, added=state.accepted - before)


def _import(
    store: Store,
    source: Source,
    name: str,
    state: State,
    ledger: Ledger,
    limits: Limits,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Read the rows after the position of the state, to the end."""
    ledger.begin(state.position)
    known, noted = KnownIds(store), state.rows
    with Appender(store) as appender:
        batch = Batch(appender, known, state, ledger)
        for row in rows_of(source, state.position):
            looks = ledger.digest(row)
            reasons = list(row.skipped)
            for record in row.records:
                reason = limits.refusal(record)
                if reason:
                    reasons.append(reason)
                else:
                    batch.add(record, row)
            ledger.note(row, looks, reasons)
            if reasons:
                state.skipped.update(reasons)
            state.position, state.rows = row.next, state.rows + 1
            full = len(batch) >= limits.batch_rows or batch.nbytes >= limits.batch_bytes
            if full or state.rows - noted >= NOTE_AFTER:
                batch.write(name, source)
                noted = state.rows
            if progress is not None:
                progress(state.rows, max(len(source), state.rows))
        state.finished = True
        batch.write(name, source)
        appender.wait()
    ledger.finish()


def result(state: State, ledger: Ledger, **more: Any) -> Imported:
    """What the state and the ledger say, and more fields of `Imported`."""
    skipped = dict(sorted(state.skipped.items()))
    found = Imported(state.accepted, skipped, state.rows, state.bytes, skipped_file=ledger.path)
    return replace(found, skipped_rows=tuple(ledger.skipped), **more)


def check_licence(source: Licensed, accepted: Collection[str]) -> None:
    """Raise UsageError when the source has a restricted licence that is not accepted."""
    licence = source.licence
    if licence.restricted and licence.name not in accepted:
        raise UsageError(
            f"The source {source.name!r} has the licence {licence.name!r} ({licence.limits}); if that allows what you "
            f"do, add --accept-licence {shlex.quote(licence.name)}."
        )


def note_name(source: Source, accepted: Collection[str], refused: BenchmarkPictures) -> str:
    """Name of the note with the progress. Another place, options, licences or refused pictures give another name."""
    conditions = [dict(source.identity()), sorted(set(accepted)), _digest(refused.conditions())]
    return IMPORT_NOTE + _digest(conditions)[:32]


def fingerprint_of(source: Source) -> str:
    """A digest of the state of the files of a source."""
    return _digest(dict(source.fingerprint()))


class Appender:
    """Appends batches to a store in a thread, so that the next rows are read meanwhile.

    The store must not be used between `append` and `wait`. Leaving the block waits, so that a batch is written whole
    also when reading fails.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "append")
        self._running: Future[None] | None = None

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def append(self, records: Sequence[Record], note: tuple[str, Mapping[str, Any]]) -> None:
        """Begin `Store.append`, after the batch before is written. Raises DataError as that does."""
        # Made here: a thread that computes in Python would stop the reader at each of its calls of the system.
        table = as_table(records)
        self.wait()
        self._running = self._thread.submit(self._store.append, table, note=note)

    def wait(self) -> None:
        """Wait until nothing is being written. Raises DataError when the last batch could not be."""
        running, self._running = self._running, None
        if running is not None:
            running.result()


class Batch:
    """Records to append as one batch; of several with one id, the first."""

    def __init__(self, appender: Appender, known: KnownIds, state: State, ledger: Ledger) -> None:
        self._appender, self._known, self._state, self._ledger = appender, known, state, ledger
        self._records: dict[str, tuple[Record, Row]] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record, row: Row) -> None:
        """Take a record, unless the batch has its id already."""
        if record.id in self._records:
            self._skip(row)
        else:
            self._records[record.id] = record, row
            self.nbytes += record.nbytes

    def write(self, name: str, source: Source) -> None:
        """Append the records that are not in the store yet, and save the progress with them."""
        self._appender.wait()
        known = self._known.among(list(self._records))
        for key in known:
            self._skip(self._records[key][1])
        records = [record for record, _ in self._records.values() if record.id not in known]
        self._state.accepted += len(records)
        self._state.bytes += sum(record.nbytes for record in records)
        self._records, self.nbytes = {}, 0
        self._ledger.flush()
        self._appender.append(records, (name, self._state.note(source)))
        self._known.add([record.id for record in records])

    def _skip(self, row: Row) -> None:
        self._state.skipped[KNOWN] += 1
        self._ledger.skip(row, [KNOWN])


def rows_of(source: Source, start: int = 0) -> Iterator[Row]:
    """The rows of the source. An error of a file reader becomes a DataError that names the source."""
    try:
        yield from source.rows(start)
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        raise DataError(f"The source {source.name!r} cannot be read ({reason}); check its files.") from error


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
