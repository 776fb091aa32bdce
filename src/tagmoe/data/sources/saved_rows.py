"""Rows of a data set that `datasets` wrote with save_to_disk, from memory-mapped Arrow files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from tagmoe.data.sources.files import marks, reading
from tagmoe.data.sources.parquet_rows import Column, ParquetRow, python_values
from tagmoe.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"
DAMAGED = "is damaged ({}); save the data set again"


def is_saved(path: Path) -> bool:
    """Whether a folder was written by save_to_disk."""
    return (path / STATE).is_file() or (path / SPLITS).is_file()


def saved_schema(path: Path) -> pa.Schema:
    """The columns of the first file. Raises DataError when there is none, or it is damaged."""
    for file, _ in _data_files(path):
        with _opened(file) as reader:
            return reader.schema
    return pa.schema([])


class SavedRows:
    """The rows of all splits, in the order of the data set. It has the methods of `ParquetRows`."""

    def __init__(self, path: Path, columns: Sequence[Column], *, advice: str) -> None:
        """advice: what to do about a missing column, for the error. Raises DataError for missing or damaged files."""
        self._columns = columns
        self._files: list[tuple[Path, str, int]] = []
        for file, split in _data_files(path):
            with _opened(file) as reader:
                names = reader.schema.names
                missing = [column.name for column in columns if column.required and column.name not in names]
                if missing:
                    known = ", ".join(names[:12])
                    raise DataError(f"{str(file)!r} has no column {missing[0]!r}, only {known}; {advice}.")
                self._files.append((file, split, sum(len(batch) for batch in reader)))

    def __len__(self) -> int:
        return sum(count for _, _, count in self._files)

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that identify the files."""
        return {"saved": marks([file for file, _, _ in self._files])}

    def read(self, start: int = 0) -> Iterator[ParquetRow]:
        """Rows from number `start` on; a column that a file lacks is None. Raises DataError for a damaged file."""
        empty = dict.fromkeys(column.name for column in self._columns)
        number = 0
        for file, split, count in self._files:
            if number + count <= start:
                number += count
                continue
            first = number
            with _opened(file) as reader:
                for batch in reader:
                    found = batch.select([name for name in empty if name in batch.schema.names])
                    begin = min(max(0, start - number), len(batch))
                    number += begin
                    for at in range(begin, len(batch)):
                        number += 1
                        load = partial(_values, found.slice(at, 1), empty)
                        yield ParquetRow(number, f"{file.name}:{number - first - 1}", split, file, load)


def _data_files(path: Path) -> Iterator[tuple[Path, str]]:
    splits = _state(path / SPLITS).get("splits", ()) if (path / SPLITS).is_file() else ("",)
    for split in splits:
        for item in _state(path / split / STATE).get("_data_files", ()):
            yield path / split / Path(item["filename"]).name, split


def _values(row: pa.RecordBatch, empty: dict[str, Any]) -> dict[str, Any]:
    (values,) = python_values(row)
    return empty | values


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    with (
        reading(file, DAMAGED, (OSError, pa.ArrowException)),
        pa.memory_map(str(file)) as mapped,
        pyarrow.ipc.open_stream(mapped) as reader,
    ):
        yield reader


def _state(file: Path) -> dict[str, Any]:
    with reading(file, DAMAGED):
        value = json.loads(file.read_text(encoding="utf-8"))
        files, splits = value.get("_data_files", ()), value.get("splits", ())
        if not all(isinstance(item["filename"], str) for item in files):
            raise ValueError("a file has no name")
        # A file from elsewhere must not name paths outside the folder.
        if not all(isinstance(split, str) and Path(split).name == split for split in splits):
            raise ValueError("a split is no plain name")
    return value
