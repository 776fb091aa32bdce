"""The store: one Lance table of records, in a local folder or in an object store.

- Appending writes new files only. One commit adds a batch of records and the note on the writer's progress.
- A column is declared empty and then filled fragment by fragment, one commit each. No picture is rewritten. A killed
  run loses the fragment it was working on, and a later run fills the fragments that are still empty.
- Rows never move, so the number of a row identifies it as long as the store exists.

STORE/records.lance   the table
STORE/writer.lock     locked by the process that writes (local folders only)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.dataset import LanceOperation
from lance.fragment import LanceFragment

from tagmoe.data.store.location import (
    another_writer,
    as_data_error,
    full_uri,
    is_local,
    is_store,
    table_uri,
    writer_lock,
)
from tagmoe.data.store.record import SCHEMA, Record, as_table, from_row, to_row
from tagmoe.errors import DataError, UsageError

VERSION = 1
_VERSION_KEY = b"tagmoe.store"
_NOTE = "tagmoe.note."
IMPORT_NOTE = "import/"
"""Prefix of the notes (`Store.notes`) that say how far each import of a source is."""
SCAN_ROWS = 256
"""Rows of a batch of a scan; a batch with pictures has tens of megabytes."""
CLEAR_AFTER = 256
"""Commits of a writer after which all their versions but the newest are removed. Every version lists all fragments, so
keeping them would need 260 GB for 11 million rows of 1.5 MB (docs/scale.md)."""


@dataclass(frozen=True)
class Filling:
    """New columns of one fragment, written to a file that becomes part of the table with `Store.commit`.

    before, after: metadata of the fragment without and with the file, as JSON text. fields: ids of the columns.
    """

    fragment: int
    before: str
    after: str
    fields: tuple[int, ...]


@dataclass(frozen=True)
class Cleaned:
    """What `Store.clean` removed: versions of the table, files that only they used, bytes of both."""

    versions: int
    files: int
    bytes: int


class Store:
    """Records in one table. Any number of processes may read; writing needs `with store.writing():`."""

    def __init__(self, uri: str, table: lance.LanceDataset) -> None:
        self.uri = uri
        self._table = table
        self._writing = False
        self._steps: list[int] = []
        self._noted: dict[str, str | None] = {}

    @classmethod
    def create(cls, uri: str | Path) -> Store:
        """Create an empty store. Raises DataError when there is one already or the place cannot be written."""
        uri = full_uri(uri)
        if is_store(uri):
            raise DataError(f"There is a store at {uri!r} already; choose another place.")
        schema = SCHEMA.with_metadata({_VERSION_KEY: str(VERSION).encode()})
        with as_data_error(uri, "made"):
            if is_local(uri):
                Path(uri).mkdir(parents=True, exist_ok=True)
            # Not `write_dataset`: when another process is first, that tries again and replaces what it finds. This
            # commit is tried once: of several processes one makes the store, and the others get an error.
            operation = LanceOperation.Overwrite(schema, [])
            table = lance.LanceDataset.commit(table_uri(uri), operation, read_version=0, max_retries=0)
        return cls(uri, table)

    @classmethod
    def open(cls, uri: str | Path, *, version: int | None = None) -> Store:
        """Open an existing store, at `version` of its table or at the newest version.

        Raises UsageError when there is no store. Raises DataError when it is damaged, was written by a newer tagmoe, or
        does not have the version any more.
        """
        uri = full_uri(uri)
        if not is_store(uri):
            raise UsageError(f"There is no store at {uri!r}; make one with 'tagmoe data import'.")
        with as_data_error(uri, "read"):
            table = lance.dataset(table_uri(uri))
        if version is not None and version != table.version:
            try:
                table = table.checkout_version(version)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"The store {uri!r} has no version {version} that can be read: it was cleaned away, or was a step "
                    f"in the middle of a write; the newest is {table.version}."
                ) from error
        found = (table.schema.metadata or {}).get(_VERSION_KEY, b"0")
        if not found.isdigit() or not 1 <= int(found) <= VERSION:
            raise DataError(
                f"The store {uri!r} has version {found.decode(errors='replace')!r}, and this tagmoe reads up to "
                f"{VERSION}; use the tagmoe that wrote it, or a newer one."
            )
        return cls(uri, table)

    @classmethod
    def open_or_create(cls, uri: str | Path) -> Store:
        """Open the store at `uri`, or create it when there is none; also when another process does so meanwhile."""
        if not is_store(full_uri(uri)):
            try:
                return cls.create(uri)
            except DataError:
                if not is_store(full_uri(uri)):
                    raise
        return cls.open(uri)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    @property
    def version(self) -> int:
        """Version of the table; every commit makes a new one."""
        return int(self._table.version)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self._table.schema.names)

    @property
    def record_columns(self) -> tuple[str, ...]:
        """The columns of SCHEMA that the store has; a store of an older version gets the others when it is written."""
        there = set(self.columns)  # asked once: Lance makes the schema anew each time
        return tuple(name for name in SCHEMA.names if name in there)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        return self._table.schema

    # reading

    def scan(
        self, columns: Sequence[str] | None = None, *, where: str | None = None, rows: int = SCAN_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """All rows in order, or those that the SQL filter keeps, `rows` at a time; only `columns` are read."""
        with as_data_error(self.uri, "read"):
            yield from self._table.to_batches(
                columns=None if columns is None else list(columns),
                filter=where,
                batch_size=rows,
                # Batches with pictures are large: read ahead only what keeps the disk busy, so that memory stays flat.
                batch_readahead=2,
                fragment_readahead=1,
                scan_in_order=True,
            )

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by number, in the given order. Raises UsageError for a number out of range."""
        numbers = np.asarray(rows, dtype=np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise UsageError(
                f"The store {self.uri!r} has rows 0 to {len(self) - 1}; {numbers.tolist()[:4]} were asked."
            )
        with as_data_error(self.uri, "read"):
            return self._table.take(numbers.tolist(), columns=None if columns is None else list(columns))

    def records(self, rows: Sequence[int]) -> list[Record]:
        """Records by row number, with their pictures."""
        return [from_row(row) for row in self.take(rows, self.record_columns).to_pylist()]

    def record(self, name: str) -> Record:
        """The record with this id, or with an id that begins so. Raises UsageError for no such record or several."""
        if not re.fullmatch(r"[0-9a-f]{1,32}", name):
            raise UsageError(f"{name!r} is no id; ids are 32 hexadecimal digits, and their beginning will do.")
        where = f"id = '{name}'" if len(name) == 32 else f"id LIKE '{name}%'"
        with as_data_error(self.uri, "read"):
            found = self._table.to_table(columns=list(self.record_columns), filter=where, limit=2).to_pylist()
        if not found:
            raise UsageError(f"The store {self.uri!r} has no record {name!r}.")
        if len({row["id"] for row in found}) > 1:
            raise UsageError(f"Several records of the store {self.uri!r} begin with {name!r}; give more digits.")
        return from_row(found[0])

    # writing

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """Lock the store for writing.

        Raises DataError when another process is writing, or when the place cannot be written.
        """
        if self._writing:
            raise DataError(f"The store {self.uri!r} is being written by this process already.")
        with writer_lock(self.uri), as_data_error(self.uri, "written"):
            self._writing = True
            try:
                self._table = lance.dataset(table_uri(self.uri))
                # A killed writer leaves notes in the properties of its last commit only.
                self._noted = self._newest_properties()
                self._settle_notes()
                self.declare([field for field in SCHEMA if field.name not in self.columns])
                yield self
                self._settle_notes()
                self._clear_steps()
            finally:
                self._writing = False
                self._steps, self._noted = [], {}

    def append(
        self, records: Iterable[Record] | pa.Table, *, note: tuple[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Add records, or a table of SCHEMA, as one fragment.

        note: (name, JSON values) to set in the same commit (`Store.note`).
        """
        table = records if isinstance(records, pa.Table) else as_table(records)
        self._must_write()
        before = self.version
        if note is not None:
            self._noted[_NOTE + note[0]] = json.dumps(note[1], sort_keys=True)
        if not len(table):
            self._settle_notes()
            return
        # Notes are transaction properties, so that one commit holds both. `_settle_notes` copies them to the config.
        properties = dict(self._noted) or None
        self._table = lance.write_dataset(table, self._table, mode="append", transaction_properties=properties)
        if self.version != before + 1:
            raise another_writer(self.uri)
        self._stepped(before)

    def replace(self, records: Mapping[int, Record]) -> None:
        """Put other records into rows, by row number: one commit for each fragment.

        The columns that were added to the store are emptied in these rows, as they belong to the old records. Raises
        UsageError for a number out of range.
        """
        self._must_write()
        start = 0
        for number in self.fragments():
            end = start + self.fragment_rows(number)
            here = {row - start: record for row, record in records.items() if start <= row < end}
            if here:
                batches = self.fragment(number, self.columns)
                rows = [row for batch in batches for row in batch.to_pylist()]
                for place, record in here.items():
                    rows[place] = dict.fromkeys(self.columns) | to_row(record)
                self.fill(number, pa.Table.from_pylist(rows, schema=self.schema))
            start = end
        beyond = [row for row in records if not 0 <= row < start]
        if beyond:
            raise UsageError(f"The store {self.uri!r} has rows 0 to {start - 1}; {beyond[0]} is none of them.")

    def note(self, name: str) -> dict[str, Any] | None:
        """The newest note of this name, such as the progress of an import or the fingerprint of a column."""
        return self.notes(name).get(name)

    def set_note(self, name: str, values: Mapping[str, Any] | None) -> None:
        """Set the note of this name, or delete it with None."""
        self._must_write()
        self._settle_notes()
        if values is not None:
            self._table.update_config({_NOTE + name: json.dumps(values, sort_keys=True)})
        elif _NOTE + name in self._table.config():
            self._table.delete_config_keys([_NOTE + name])
        self._table = lance.dataset(table_uri(self.uri))

    def notes(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """All notes whose names begin with `prefix`."""
        texts = {**self._table.config(), **self._newest_properties()}
        return {
            name.removeprefix(_NOTE): json.loads(text)
            for name, text in sorted(texts.items())
            if text is not None and name.startswith(_NOTE + prefix)
        }

    def declare(self, fields: Sequence[pa.Field]) -> None:
        """Add columns, empty in all rows. A column that exists with this type is kept as it is.

        Raises DataError when a column exists with another type.
        """
        self._must_write()
        self._settle_notes()
        new = [field for field in fields if field.name not in self.columns]
        for field in fields:
            if field not in new and self.schema.field(field.name).type != field.type:
                raise DataError(f"The store {self.uri!r} has a column {field.name!r} of another type; drop it first.")
        if new:
            self._table.add_columns(pa.schema(new))
            self._table = lance.dataset(table_uri(self.uri))

    def drop(self, columns: Sequence[str]) -> None:
        """Remove columns. Raises UsageError for a column of SCHEMA."""
        self._must_write()
        self._settle_notes()
        fixed = [name for name in columns if name in SCHEMA.names]
        if fixed:
            raise UsageError(f"The column {fixed[0]!r} belongs to every store and cannot be dropped.")
        self._table.drop_columns([name for name in columns if name in self.columns])
        self._table = lance.dataset(table_uri(self.uri))

    def fragments(self) -> list[int]:
        """Numbers of the fragments, in the order of their rows. `fill` writes one fragment at a time."""
        return [fragment.fragment_id for fragment in self._table.get_fragments()]

    def unfilled(self, column: str) -> list[int]:
        """The fragments in which this column is empty in some row."""
        return list(self.rows_where(f"`{column}` IS NULL"))

    def rows_where(self, where: str) -> dict[int, int]:
        """Number of rows that the SQL filter keeps, by fragment; fragments without such rows are left out."""
        with as_data_error(self.uri, "read"):
            counts = ((one.fragment_id, one.count_rows(filter=where)) for one in self._table.get_fragments())
            return {number: int(count) for number, count in counts if count}

    def fragment(
        self, number: int, columns: Sequence[str] | None = None, *, rows: int = SCAN_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows of one fragment in order, `rows` at a time."""
        with as_data_error(self.uri, "read"):
            yield from self._fragment(number).to_batches(
                columns=None if columns is None else list(columns), batch_size=rows, batch_readahead=2
            )

    def fragment_rows(self, number: int) -> int:
        """Number of rows of a fragment."""
        return int(self._fragment(number).count_rows())

    def fill(self, number: int, values: pa.Table) -> None:
        """Set columns of one fragment to these values, in the order of its rows; the columns must be declared.

        This is one commit: after a kill the fragment is as before. Files of other columns are not rewritten.
        """
        self._must_write()
        self.commit(self.prepare(number, values))

    def prepare(self, number: int, values: pa.Table) -> Filling:
        """Write the file for `commit`; the store does not change. Any process may do this, without the lock."""
        fragment = self._fragment(number)
        with as_data_error(self.uri, "written"):
            ids = fragment.to_table(columns=[], with_row_id=True)["_rowid"]
            if len(ids) != len(values):
                raise DataError(f"Fragment {number} has {len(ids)} rows; {len(values)} values were given.")
            metadata, fields = fragment.update_columns(values.append_column("_rowid", ids))
        return Filling(number, _as_json(fragment.metadata), _as_json(metadata), tuple(fields))

    def commit(self, filling: Filling) -> None:
        """Make a prepared file part of the table, in the process that holds the lock.

        Raises DataError when the fragment has changed since `prepare`: Lance would silently undo that change.
        """
        self._must_write()
        self._settle_notes()
        if _as_json(self._fragment(filling.fragment).metadata) != filling.before:
            raise DataError(
                f"Fragment {filling.fragment} of the store {self.uri!r} was changed while its new columns were made; "
                "make them again."
            )
        before = self.version
        self._table = lance.LanceDataset.commit(
            self._table,
            LanceOperation.Update(
                updated_fragments=[lance.FragmentMetadata.from_json(filling.after)],
                fields_modified=list(filling.fields),
            ),
            read_version=self._table.version,
        )
        self._stepped(before)

    def clean(self, older_than: timedelta) -> Cleaned:
        """Remove versions of the table that are older, and the files that only they use; the newest version stays.

        Such files are columns that were dropped or filled again, and after a week also files of killed workers.
        """
        self._must_write()
        done = self._table.cleanup_old_versions(older_than=older_than)
        return Cleaned(done.old_versions, done.data_files_removed, done.bytes_removed)

    def _stepped(self, before: int) -> None:
        """Remember the versions of this commit, which nobody opens again, and remove them from time to time."""
        self._steps += range(before + 1, self.version + 1)
        if len(self._steps) >= CLEAR_AFTER:
            self._clear_steps()

    def _clear_steps(self) -> None:
        passed = [number for number in self._steps if number != self.version]
        if passed:
            self._table.cleanup_old_versions(versions=passed)
        self._steps = [number for number in self._steps if number == self.version]

    def _fragment(self, number: int) -> LanceFragment:
        fragment = self._table.get_fragment(number)
        if fragment is None:
            raise UsageError(f"The store {self.uri!r} has no fragment {number}.")
        return fragment

    def _must_write(self) -> None:
        if not self._writing:
            raise DataError(f"The store {self.uri!r} is open for reading; write inside 'with store.writing()'.")
        if not is_local(self.uri) and self._table.latest_version != self.version:
            raise another_writer(self.uri)

    def _newest_properties(self) -> dict[str, str | None]:
        transaction = self._table.read_transaction(self._table.version)
        found = {} if transaction is None else dict(transaction.transaction_properties or {})
        return {key: value for key, value in found.items() if key.startswith(_NOTE)}

    def _settle_notes(self) -> None:
        """Copy notes from transaction properties to the config: another kind of commit would hide the properties."""
        if self._noted:
            self._table.update_config(self._noted)
            self._table = lance.dataset(table_uri(self.uri))
            self._noted = {}


def _as_json(metadata: Any) -> str:
    return json.dumps(metadata.to_json(), sort_keys=True)
