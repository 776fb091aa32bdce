"""Hugging Face Parquet, or a folder that `datasets` wrote with save_to_disk: rows are streamed, pictures as stored.

Columns of `tagmoe data export --format parquet` are known. Of other files the user says which column is what:
a field of `tagmoe.data.fields.FIELDS`, `quality.NAME` for a score, `target`, or the role of an input picture.
A picture is struct{bytes, path} as `datasets.Image` stores it, or plain bytes, or for inputs a list of either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from tagmoe.data.fields import FIELDS, UnusableRow, from_fields, roles_of
from tagmoe.data.record import Picture, Record, Role
from tagmoe.data.sources.files import marks, picture
from tagmoe.data.sources.source import Licence, Row
from tagmoe.errors import DataError, UsageError

BATCH_ROWS = 16
"""Rows read at once: with large pictures some tens of megabytes."""
OWN_PICTURES = ("input_images", "input_roles", "output_image")


class ParquetSource:
    """The rows of one Parquet file, of all below a folder in the order of their paths, or of a saved data set.

    map: what each column is, {"instruction": "edit_prompt", "source": "original_image", "target": "edited_image"}.
    Raises DataError for files of another kind and for missing columns.
    """

    def __init__(
        self, path: Path, name: str = "parquet", licence: str | None = None, map: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._path, self._map = path, dict(map or {})
        self._files = _files(path)
        self._sizes: list[int] | None = None
        self._default_licence = licence or "none"
        _check_map(self._map)
        for file in self._files[:1]:
            self._check_columns(file, _open(file).schema)
        self.licence = Licence.named(licence or self._first_licence())

    def fingerprint(self) -> Mapping[str, Any]:
        """Files and options."""
        return {
            "kind": "parquet",
            "files": marks(self._files),
            "name": self.name,
            "licence": self._default_licence,
            "map": list(self._map.items()),
        }

    def rows(self, start: int = 0) -> Iterator[Row]:
        """A row for each row of the files; whole files and row groups before `start` are not read."""
        first = 0
        for file in self._files:
            opened = _open(file)
            if first + len(opened) > start:
                self._check_columns(file, opened.schema)
                begin = max(0, start - first)
                for number, values in enumerate(opened.read(self._columns(opened.schema), begin), begin + 1):
                    yield self._row(values, first + number, f"{file.name}:{number}")
            first += len(opened)

    def __len__(self) -> int:
        if self._sizes is None:
            self._sizes = [len(_open(file)) for file in self._files]
        return sum(self._sizes)

    def _row(self, values: Mapping[str, Any], number: int, origin: str) -> Row:
        try:
            return Row(number, (self._record(values, origin),))
        except UnusableRow as reason:
            return Row(number, (), (str(reason),))

    def _record(self, values: Mapping[str, Any], origin: str) -> Record:
        if self._map:
            fields, images, target = self._mapped(values)
        else:
            found = values.get("input_images") or []
            roles = roles_of(values.get("input_roles"), len(found))
            images = [picture(_bytes(item), role) for item, role in zip(found, roles, strict=True)]
            fields, target = dict(values), picture(_bytes(values["output_image"], "target"))
        return from_fields(fields, images, target, dataset=self.name, licence=self._default_licence, origin=origin)

    def _mapped(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Picture], Picture]:
        fields: dict[str, Any] = {}
        quality: dict[str, Any] = {}
        images: list[Picture] = []
        for what, column in self._map.items():
            value = values[column]
            if what.startswith("quality."):
                quality[what.removeprefix("quality.")] = value
            elif what in FIELDS:
                fields[what] = value
            elif what != "target" and not (what == "mask" and value is None):
                items = value if isinstance(value, list) else [value]
                images += [picture(_bytes(item, what), _role(what)) for item in items]
        return fields | ({"quality": quality} if quality else {}), images, picture(_bytes(values[self._map["target"]]))

    def _columns(self, schema: pa.Schema) -> list[str]:
        wanted = self._map.values() if self._map else (*FIELDS, *OWN_PICTURES)
        return [name for name in dict.fromkeys(wanted) if name in schema.names]

    def _check_columns(self, file: Path, schema: pa.Schema) -> None:
        needed = self._map.values() if self._map else ("instruction", "output_image")
        missing = [name for name in needed if name not in schema.names]
        if missing:
            say = "" if self._map else "; say what is what with --map instruction=COLUMN --map target=COLUMN ..."
            raise DataError(f"{str(file)!r} has no column {missing[0]!r} but {', '.join(schema.names)}{say}.")

    def _first_licence(self) -> str:
        column = self._map.get("licence", "" if self._map else "licence")
        opened = _open(self._files[0])
        if column in opened.schema.names:
            for values in opened.read([column], 0):
                return values[column] if isinstance(values[column], str) and values[column] else "none"
        return "none"


class _ParquetFile:
    """One Parquet file; a row group is read a few rows at a time."""

    def __init__(self, file: Path) -> None:
        self._opened = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
        self.schema = self._opened.schema_arrow

    def __len__(self) -> int:
        return int(self._opened.metadata.num_rows)

    def read(self, columns: Sequence[str], start: int) -> Iterator[dict[str, Any]]:
        first = 0
        for group in range(self._opened.metadata.num_row_groups):
            count = self._opened.metadata.row_group(group).num_rows
            if first + count > start:
                batches = self._opened.iter_batches(
                    batch_size=BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False
                )
                yield from _values(batches, first, start)
            first += count


class _ArrowFile:
    """One file of save_to_disk: a stream of record batches, mapped into memory, so that passing over is free."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with self._opened() as reader:
            self.schema = reader.schema
        self._rows: int | None = None

    def __len__(self) -> int:
        if self._rows is None:
            with self._opened() as reader:
                self._rows = sum(len(batch) for batch in reader)
        return self._rows

    def read(self, columns: Sequence[str], start: int) -> Iterator[dict[str, Any]]:
        with self._opened() as reader:
            first = 0
            for batch in reader:
                if first + len(batch) > start:
                    parts = batch.select(list(columns))
                    slices = (parts.slice(at, BATCH_ROWS) for at in range(0, len(parts), BATCH_ROWS))
                    yield from _values(slices, first, start)
                first += len(batch)

    def _opened(self) -> Any:
        return pyarrow.ipc.open_stream(pa.memory_map(str(self._file)))


def _values(batches: Iterator[pa.RecordBatch], first: int, start: int) -> Iterator[dict[str, Any]]:
    """The rows of batches whose first has number `first`, from row `start` on."""
    for batch in batches:
        if first + len(batch) > start:
            yield from batch.slice(max(0, start - first)).to_pylist()
        first += len(batch)


def _open(file: Path) -> _ParquetFile | _ArrowFile:
    try:
        return _ArrowFile(file) if file.suffix == ".arrow" else _ParquetFile(file)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise DataError(f"{str(file)!r} cannot be read ({reason}); give Parquet or files of save_to_disk.") from None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    splits = _json(path / "dataset_dict.json").get("splits")
    folders = [path / str(split) for split in splits] if isinstance(splits, list) else [path]
    saved = [
        folder / str(item.get("filename"))
        for folder in folders
        for item in _json(folder / "state.json").get("_data_files", ())
    ]
    found = saved or sorted(path.rglob("*.parquet"))
    if not found:
        raise DataError(f"The folder {str(path)!r} has neither *.parquet files nor a data set of save_to_disk.")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_map(given: Mapping[str, str]) -> None:
    allowed = (*FIELDS, *get_args(Role), "target")
    for what in given:
        if what not in allowed and not (what.startswith("quality.") and len(what) > len("quality.")):
            raise UsageError(f"--map {what}=... names nothing of a record; use quality.NAME or {', '.join(allowed)}.")
    for needed in ("instruction", "target") if given else ():
        if needed not in given:
            raise UsageError(f"--map says nothing of the {needed}; add --map {needed}=COLUMN.")


def _role(what: str) -> Role:
    for role in get_args(Role):
        if what == role:
            return role
    raise UsageError(f"{what!r} is no role of a picture.")


def _bytes(value: Any, what: str = "input") -> bytes:
    """The bytes of a picture column. Raises UnusableRow."""
    if value is None:
        raise UnusableRow(f"no {what} picture")
    if isinstance(value, Mapping):
        if value.get("bytes") is None:
            raise UnusableRow("picture that is only named in the file")
        value = value["bytes"]
    if not isinstance(value, bytes):
        raise UnusableRow("bad value of a picture")
    return value
