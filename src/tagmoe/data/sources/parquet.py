"""Source of Hugging Face Parquet files or a folder written by save_to_disk. Pictures keep their stored bytes.

The columns of `tagmoe data export --format parquet` are known. For other files the user maps the columns to fields
(`field_map`). A picture is struct{bytes, path} as `datasets.Image` stores it, plain bytes, base64, the path of a file
in the folder or in `root`, or a list of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.data.sources.mapped import MappedSource
from tagmoe.data.sources.parquet_rows import Column, ParquetRow, ParquetRows, first_schema
from tagmoe.data.sources.places import Folder, place_of
from tagmoe.data.sources.saved_rows import SavedRows, is_saved, saved_schema
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record

ADVICE = "say which column is what with --map instruction=COLUMN --map target=COLUMN ..."


class ParquetSource(MappedSource):
    """The rows of one Parquet file, of all below a folder in the order of their paths, or of a saved data set.

    map: what each column is, {"instruction": "edit_prompt", "source": "original_image", "target": "edited_image"}.
    The others are as of `MappedSource`.
    """

    kind = "parquet"

    def __init__(
        self,
        path: Path,
        name: str = "parquet",
        licence: str | None = None,
        map: Mapping[str, str] | None = None,
        constants: Mapping[str, str] | None = None,
        root: str | Path | None = None,
        *,
        optional: bool = False,
        more: Sequence[str] = (),
    ) -> None:
        """optional: files may lack any column, as files of several kinds are read together. more: further columns.

        Raises DataError for files of another kind and for missing columns, UsageError for a map of unknown names."""
        super().__init__(path, name, licence, map, constants, root)
        folder = path if path.is_dir() else path.parent
        self._place = Folder(folder) if self._root is None else place_of(self._root)
        self._schema = (saved_schema if is_saved(path) else first_schema)(path)
        # A column named by a path of keys ("data.0.image") is a part of the column of its first key.
        needed = set() if optional else {self._column(column) for column in self._fields.needed}
        wanted = dict.fromkeys([*(self._column(column) for column in self._fields.columns), *more])
        self._rows = self._open([Column(column, "any", required=column in needed) for column in wanted])
        self.licence = self._named_licence(licence)

    @property
    def unused(self) -> Counter[str]:
        """The columns that are not read, by the number of rows that have them."""
        used = {self._column(column) for column in self._fields.columns}
        return Counter({name: len(self) for name in self._schema.names if name not in used})

    def unfolded(self, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The samples in a row: one, or for example the turns of a conversation. Raises UnusableRow."""
        return [values]

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files."""
        return self._rows.fingerprint()

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each row of the files; files and row groups that end before `start` are not read."""
        for found in self._rows.read(start):
            yield self._row(found)

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, found: ParquetRow) -> Row:
        if not self._names_files:
            return row(found.next, partial(self._record, found), origin=found.origin, files=[found.path])
        try:
            samples = self.unfolded(found.values)
        except UnusableRow as reason:
            return Row(found.next, skipped=(str(reason),), origin=found.origin, files=[found.path])
        named = [file for values in samples for file in self._fields.files(values, self._place)]
        makers = [partial(self._made, values, self._place, found.origin) for values in samples]
        return row(found.next, *makers, origin=found.origin, files=[found.path, *named])

    @cached_property
    def _names_files(self) -> bool:
        """Whether pictures are named by texts. Then a row is read to see which files these are."""
        if self._root is not None or type(self).unfolded is not ParquetSource.unfolded:
            return True
        columns = {self._column(column) for column in self._fields.picture_columns}
        kinds = [self._schema.field(name).type for name in columns if name in self._schema.names]
        return any(_is_text(kind.value_type if pa.types.is_list(kind) else kind) for kind in kinds)

    def _record(self, found: ParquetRow) -> Record:
        return self._made(found.values, self._place, found.origin)

    def _open(self, columns: list[Column]) -> ParquetRows | SavedRows:
        kind = SavedRows if is_saved(self._path) else ParquetRows
        return kind(self._path, columns, advice=ADVICE)

    def _column(self, name: str) -> str:
        return name if name in self._schema.names else name.split(".")[0]

    def _first_value(self, column: str) -> Any:
        first = next(iter(self._open([Column(column, "any", required=False)]).read()), None)
        return None if first is None else first.values[column]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
