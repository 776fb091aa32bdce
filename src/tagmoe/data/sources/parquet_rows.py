"""Rows of one or several Parquet files, numbered through; reading can start at any row.

The footers of all files are read first. So a wrong or truncated file is found before a row is imported, and a start
position is found without reading the rows before it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tagmoe.data.sources.files import reading, stamp
from tagmoe.errors import DataError

BATCH_ROWS = 16
"""Rows that are converted to Python values at a time."""
READ_BYTES = 1 << 20
"""Bytes read from the disk at a time. A page of pictures is decompressed whole: reading needs memory of about two and a
half times a row group (measured on groups of 100 rows of two 1.2 MB pictures), however many groups there are."""
SPLITS = ("train", "dev", "validation", "val", "test")


@dataclass(frozen=True)
class Column:
    """A column to read.

    kind: picture is an Image of `datasets` (struct of bytes and path) or plain bytes; texts is a list of texts; any is
    not checked here, only by the reader of the values.
    """

    name: str
    kind: Literal["picture", "text", "texts", "number", "struct", "any"]
    required: bool = True


class ParquetRow:
    """One row. next: number of the row after it. origin: file and number in the file. split: of `split_in_name`.

    values: by column, read when they are first asked for.
    """

    def __init__(self, next: int, origin: str, split: str, path: Path, load: Callable[[], Mapping[str, Any]]) -> None:
        self.next, self.origin, self.split, self.path, self._load = next, origin, split, path, load

    @cached_property
    def values(self) -> Mapping[str, Any]:
        return self._load()


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    split: str
    groups: tuple[int, ...]
    group_bytes: tuple[int, ...]
    columns: tuple[str, ...]
    rows: int


class ParquetRows:
    """The rows of one Parquet file, or of all Parquet files below a folder, sorted by name."""

    def __init__(
        self, path: Path, columns: Sequence[Column], *, advice: str = "give the files as they were published"
    ) -> None:
        """advice: what to do about a missing column, for the error.

        Raises DataError when there is no Parquet file, or one is damaged, lacks a column or has it with another type.
        """
        self._columns, self._advice = columns, advice
        self._files = [self._file(file, path) for file in _parquet_files(path)]
        self._rows = sum(file.rows for file in self._files)

    def __len__(self) -> int:
        return self._rows

    def names(self) -> set[str]:
        """The wanted columns that at least one file has."""
        return {name for file in self._files for name in file.columns}

    def fingerprint(self) -> dict[str, Any]:
        """Number of files and rows, and a digest of the names, sizes and times of files and the sizes of row groups."""
        listed = [[file.name, *stamp(file.path), file.groups, file.group_bytes] for file in self._files]
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
        return {"files": len(self._files), "rows": len(self), "names_and_sizes": digest}

    def read(self, start: int = 0, *, left_out: frozenset[str] = frozenset()) -> Iterator[ParquetRow]:
        """Rows from number `start` on; row groups before it are not read. A column that a file lacks is None.

        left_out: splits whose values are not read; their rows come empty. Raises DataError for a damaged file.
        """
        first = 0
        for file in self._files:
            skip = max(0, start - first)
            if skip < file.rows:
                with _Values(file, self._columns) as values:
                    for number in range(skip, file.rows):
                        load = dict if file.split in left_out else partial(values.of, number)
                        origin = f"{file.name}:{number}"
                        yield ParquetRow(first + number + 1, origin, file.split, file.path, load)
            first += file.rows

    def _file(self, path: Path, root: Path) -> _File:
        with _opened(path) as opened:
            schema = opened.schema_arrow
            footers = [opened.metadata.row_group(index) for index in range(opened.num_row_groups)]
            groups = tuple(footer.num_rows for footer in footers)
            group_bytes = tuple(footer.total_byte_size for footer in footers)
        for column in self._columns:
            if column.name not in schema.names:
                if column.required:
                    raise DataError(
                        f"{str(path)!r} has no column {column.name!r}, only {', '.join(schema.names[:12])}; "
                        f"{self._advice}."
                    )
            elif not _fits(column.kind, schema.field(column.name).type):
                raise DataError(
                    f"The column {column.name!r} of {str(path)!r} is {schema.field(column.name).type}, not a "
                    f"{column.kind}; {self._advice}."
                )
        columns = tuple(column.name for column in self._columns if column.name in schema.names)
        name = path.relative_to(root).as_posix() if path != root else path.name
        return _File(path, name, split_in_name(path, root), groups, group_bytes, columns, sum(groups))


class _Values:
    """The values of the rows of one file. A row group is read when a row of it is first asked for."""

    def __init__(self, file: _File, columns: Sequence[Column]) -> None:
        self._file = file
        self._empty = dict.fromkeys(column.name for column in columns)
        self._starts = list(itertools.accumulate(file.groups, initial=0))
        self._opened: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group = -1
        self._first = 0
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> _Values:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file. A row that is asked for later opens it again."""
        if self._opened is not None:
            self._opened.close()
        self._opened, self._group, self._rows = None, -1, []

    def of(self, number: int) -> dict[str, Any]:
        """The values of this row of the file. Raises DataError for a damaged file."""
        with _as_data_error(self._file.path):
            group = bisect.bisect_right(self._starts, number) - 1
            if group != self._group or number < self._first:
                if self._opened is None:
                    self._opened = pq.ParquetFile(self._file.path, buffer_size=READ_BYTES, pre_buffer=False)
                # Read group by group, so that a damaged group does not cost rows of the group before it.
                self._batches = self._opened.iter_batches(
                    BATCH_ROWS, [group], list(self._file.columns), use_threads=False
                )
                self._group, self._first, self._rows = group, self._starts[group], []
            while number >= self._first + len(self._rows):
                self._first += len(self._rows)
                self._rows = python_values(next(self._batches))
        return self._empty | self._rows[number - self._first]


def first_schema(path: Path) -> pa.Schema:
    """The columns of the first file. Raises DataError when there is none, or it is damaged."""
    with _opened(_parquet_files(path)[0]) as opened:
        return opened.schema_arrow


def python_values(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch as Python values."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        # The text of one row is not UTF-8: make that value None and keep the other rows.
        columns = [[_python_value(value) for value in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def split_in_name(path: Path, root: Path) -> str:
    """The split in the name of a file below `root`, or else in the name of a folder; '' if neither names one.

    data/train-00000-of-00262.parquet and default/partial-train/0000.parquet are of the split 'train'.
    """
    found = re.match(r"[a-z]+", path.stem.lower())
    if found and found[0] in SPLITS:
        return found[0]
    folders = path.parent.relative_to(root.parent).parts if path != root else (path.parent.name,)
    names = [name.lower().removeprefix("partial-") for name in reversed(folders)]
    return next((name for name in names if name in SPLITS), "")


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = []
    for folder, folders, names in os.walk(path, onerror=_unreadable):
        # Hidden folders hold the state of a download, not data.
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(".parquet") and not name.startswith(".")]
    if not found:
        raise DataError(f"There is no Parquet file in {str(path)!r}; give the folder that was downloaded.")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _fits(kind: str, found: pa.DataType) -> bool:
    is_bytes = pa.types.is_binary(found) or pa.types.is_large_binary(found)
    is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
    return {
        "picture": is_bytes or (pa.types.is_struct(found) and found.get_field_index("bytes") >= 0),
        "text": pa.types.is_string(found) or pa.types.is_large_string(found),
        "texts": is_list and _fits("text", found.value_type),
        "number": pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_boolean(found),
        "struct": pa.types.is_struct(found),
        "any": True,
        # An entirely empty column has the type null.
    }[kind] or pa.types.is_null(found)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename!r} cannot be read ({error.strerror}).")


def _as_data_error(path: Path) -> AbstractContextManager[None]:
    return reading(path, "is damaged or no Parquet file ({}); download it again", (OSError, pa.ArrowException))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    with _as_data_error(path), pq.ParquetFile(path) as opened:
        yield opened
