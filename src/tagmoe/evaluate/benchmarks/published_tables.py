"""Rows of a published table, whatever it is kept in.

Parquet; Arrow, as `datasets` saves one split, a DatasetDict or bare files; JSON, JSON lines and CSV. What a picture is
in a row (bytes, {bytes, path}, base64, a path beside the table) is read as the sources of data read it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, UnusableCase
from tagmoe.extras import require
from tagmoe.report.printable import printable
from tagmoe.sentences import reason_of

ARROW, CSV, PARQUET = ".arrow", ".csv", ".parquet"
FORMATS = "Parquet, Arrow, JSON or CSV"
MOST_PATH = 1024
"""A longer text is no path: base64 may be of any length."""
MOST_CELL = 16 << 20
"""Characters of a cell of a CSV file; the module's own limit is 128 KB, too little for a picture in base64."""


class TableRow:
    """One row. number: in its file, from 1. split: that of the names of its file and folders; empty where none is.

    values: by column, read when they are first asked for. A row that is no object raises UnusableCase.
    """

    def __init__(self, file: Path, number: int, split: str, load: Callable[[], Mapping[str, Any]]) -> None:
        self.file, self.number, self.split, self._load = file, number, split, load

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The values."""
        return self._load()


class Table:
    """The rows of the table at a path: a file, a folder of `save_to_disk`, or all files of one format below a folder.

    Of several formats the first of Arrow saved by `datasets`, Parquet, bare Arrow files, JSON and CSV is read.
    """

    def __init__(
        self, path: Path, needed: Sequence[str], optional: Sequence[str] = (), *, files: Sequence[Path] | None = None
    ) -> None:
        """needed: columns that every file must have, where its format says what it has. files: those of the folder that
        are the table; by default all.

        Raises UsageError where there is nothing, DataError for no table, a damaged one and a missing column.
        """
        if not path.exists():
            raise UsageError(f"There is no folder or file {str(path)!r}; check the path.")
        self.root = path if path.is_dir() else path.parent
        self._needed, self._optional = tuple(needed), tuple(optional)
        found = _tables(path) if files is None else [one for file in files for one in _tables(file)]
        self._readers = list(self._open(found, self.root))

    def rows(self) -> Iterator[TableRow]:
        """All rows in the order of the files' names."""
        for reader in self._readers:
            yield from reader()

    def picture(self, value: Any, role: str, pictures: Pictures, *, beside: Path | None = None) -> str:
        """Keep the picture in a value. beside: a folder whose paths come before those of the table's folder.

        Raises UnusableCase where there is none, and for a path that leads out of the table's folder.
        """
        from tagmoe.data.sources.field_map import bytes_of
        from tagmoe.data.store.fields import UnusableRow

        if value in (None, "", b""):
            raise UnusableCase(f"{role}: there is none")
        try:
            return pictures.add(bytes_of(self._nearest(value, beside), self._place), role)
        except UnusableRow as error:
            raise UnusableCase(f"{role}: {error}") from None

    def _nearest(self, value: Any, beside: Path | None) -> Any:
        """The path of a picture from the table's folder, where the value is a path that starts at another folder."""
        if not isinstance(value, str) or beside is None or len(value) > MOST_PATH:
            return value
        near = (beside.relative_to(self.root) / value).as_posix()
        return near if (self.root / near).is_file() else value

    @cached_property
    def _place(self) -> Any:
        from tagmoe.data.sources.places import Folder

        return Folder(self.root)

    def _open(self, tables: Sequence[tuple[str, Path]], path: Path) -> Iterator[Callable[[], Iterator[TableRow]]]:
        for kind, file in tables:
            if kind == "json":
                yield partial(_json_rows, file, path, self._needed)
            elif kind == CSV:
                yield partial(_csv_rows, file, path, self._needed)
            else:
                require("data", "pyarrow", purpose=f"Reading {kind} files")
                yield from self._arrow_or_parquet(kind, file, path)

    def _arrow_or_parquet(self, kind: str, file: Path, path: Path) -> Iterator[Callable[[], Iterator[TableRow]]]:
        from tagmoe.data.sources.parquet_rows import Column, ParquetRows, split_in_name
        from tagmoe.data.sources.saved_rows import SavedRows

        columns = [Column(name, "any") for name in self._needed]
        columns += [Column(name, "any", required=False) for name in self._optional]
        if kind == "saved":
            saved = SavedRows(file, columns, advice="give the files as they were published")
            yield partial(_of_source, saved.read)
        elif kind == PARQUET:
            split = split_in_name(file, path)
            yield partial(_of_source, ParquetRows(file, columns).read, split)
        else:
            yield partial(_bare_arrow_rows, file, split_in_name(file, path), self._needed)


def text(values: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """A text of a row without blanks around it; empty if it is optional and not there. Raises UnusableCase."""
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        if optional:
            return ""
        raise UnusableCase(f"it has no {name}")
    if not isinstance(value, str):
        raise UnusableCase(f"its {name} is of another type")
    return value.strip()


def identifier(value: Any) -> str:
    """A value as an id: a text or a whole number; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()


def _tables(path: Path) -> list[tuple[str, Path]]:
    """(format, file or folder) of each table, sorted by name."""
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise DataError(f"{str(path)!r} is no table that is known; give {FORMATS}.")
        return [(kind, path)]
    saved, files = [], []
    for folder, folders, names in os.walk(path):
        # Hidden folders hold the state of a download.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if {"state.json", "dataset_dict.json"} & set(names):
            saved.append(("saved", Path(folder)))
            # The splits of a DatasetDict lie in folders of their own and are read with it.
            folders.clear()
            continue
        files += [(kind, file) for name in sorted(names) if (kind := _kind(file := Path(folder, name))) is not None]
    for wanted in ("saved", PARQUET, ARROW, "json", CSV):
        found = [one for one in (*saved, *files) if one[0] == wanted]
        if found:
            return sorted(found, key=lambda one: one[1].relative_to(path).as_posix())
    raise DataError(f"{str(path)!r} holds no table ({FORMATS}); give the folder that was downloaded.")


def _kind(file: Path) -> str | None:
    from tagmoe.data.sources.json_rows import is_json

    name = file.name.lower()
    if name.startswith((".", "cache-")):
        # `datasets` leaves cache-*.arrow beside the files of a data set.
        return None
    if name in ("dataset_info.json", "dataset_infos.json", "config.json"):
        return None
    return "json" if is_json(file) else next((end for end in (ARROW, CSV, PARQUET) if name.endswith(end)), None)


def _of_source(read: Callable[[], Iterator[Any]], split: str | None = None) -> Iterator[TableRow]:
    """Rows of a source of data. split: in place of its own."""
    for number, row in enumerate(read(), 1):
        yield TableRow(row.path, number, row.split if split is None else split, partial(getattr, row, "values"))


def _bare_arrow_rows(file: Path, split: str, needed: Sequence[str]) -> Iterator[TableRow]:
    """Rows of an Arrow file, of the form of a stream or of a file."""
    import pyarrow as pa
    import pyarrow.ipc

    from tagmoe.data.sources.files import reading
    from tagmoe.data.sources.parquet_rows import python_values

    number = 0
    complaint, errors = "is damaged or no Arrow file ({}); download it again", (OSError, pa.ArrowException)
    with reading(file, complaint, errors), pa.memory_map(str(file)) as mapped:
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        reader = pyarrow.ipc.open_file(mapped) if is_file else pyarrow.ipc.open_stream(mapped)
        missing = [name for name in needed if name not in reader.schema.names]
        if missing:
            raise _lacks(file, missing[0], reader.schema.names)
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
            for at in range(len(batch)):
                number += 1
                (values,) = python_values(batch.slice(at, 1))
                yield TableRow(file, number, split, partial(dict, values))


def _json_rows(file: Path, path: Path, needed: Sequence[str]) -> Iterator[TableRow]:
    """Rows of a JSON file. Each has columns of its own; a needed one that it lacks is None, as an empty one is."""
    from tagmoe.data.sources.json_rows import items, object_of
    from tagmoe.data.store.fields import UnusableRow

    def load(line: bytes) -> Mapping[str, Any]:
        try:
            return {**dict.fromkeys(needed), **object_of(line)}
        except UnusableRow as error:
            raise UnusableCase(str(error)) from None

    for number, (_, line) in enumerate(((at, line) for at, line in items(file) if line), 1):
        yield TableRow(file, number, _split(file, path), partial(load, line))


def _csv_rows(file: Path, path: Path, needed: Sequence[str]) -> Iterator[TableRow]:
    """Rows of a CSV file with a line of names; a row of more cells than names is no row.

    Raises DataError where it lacks a needed column.
    """
    before = csv.field_size_limit(MOST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            names = reader.fieldnames or ()
            missing = [name for name in needed if name not in names]
            if missing:
                raise _lacks(file, missing[0], names)
            for number, cells in enumerate(reader, 1):
                yield TableRow(file, number, _split(file, path), partial(_cells, cells))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{str(file)!r} cannot be read ({reason_of(error)}); give a CSV file in UTF-8.") from None
    finally:
        csv.field_size_limit(before)


def _lacks(file: Path, column: str, names: Sequence[str]) -> DataError:
    listed = ", ".join(map(printable, names[:12])) or "none"
    return DataError(f"{str(file)!r} has no column {column!r}, only {listed}; give the files as they were published.")


def _cells(cells: dict[str | Any, Any]) -> Mapping[str, Any]:
    if None in cells:
        raise UnusableCase("row of more cells than the first line has names")
    return cells


def _split(file: Path, path: Path) -> str:
    """The split that the names of a file and its folders tell; empty where none does."""
    names = ("train", "dev", "validation", "val", "test")
    stem = file.stem.lower().split("-")[0].split("_")[0]
    if stem in names:
        return stem
    folders = file.parent.relative_to(path).parts if path.is_dir() else ()
    return next((name.lower() for name in reversed(folders) if name.lower() in names), "")
