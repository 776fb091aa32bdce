"""Source of Hugging Face Parquet files or a folder written by save_to_disk. Pictures keep their stored bytes.

The columns of `tagmoe data export --format parquet` are known. For other files the user maps the columns to fields:
a field of `tagmoe.data.store.fields.FIELDS`, `quality.NAME` for a score, `target`, or the role of an input picture.
A picture is struct{bytes, path} as `datasets.Image` stores it, or plain bytes, or for inputs a list of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from tagmoe.data.sources.files import picture
from tagmoe.data.sources.parquet_rows import Column, ParquetRow, ParquetRows
from tagmoe.data.sources.saved_rows import SavedRows, is_saved
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.fields import FIELDS, UnusableRow, from_fields, roles_of
from tagmoe.data.store.record import Picture, Record, Role
from tagmoe.errors import UsageError

OWN_PICTURES = ("input_images", "input_roles", "output_image")
ADVICE = "say which column is what with --map instruction=COLUMN --map target=COLUMN ..."


class ParquetSource:
    """The rows of one Parquet file, of all below a folder in the order of their paths, or of a saved data set.

    map: what each column is, {"instruction": "edit_prompt", "source": "original_image", "target": "edited_image"}.
    name and licence stand where a row states none. Without `licence` the first row says what has to be accepted.
    Raises DataError for files of another kind and for missing columns, UsageError for a map of unknown names.
    """

    def __init__(
        self, path: Path, name: str = "parquet", licence: str | None = None, map: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._path, self._map = path, dict(map or {})
        self._default_licence = licence or "none"
        _check_map(self._map)
        needed = self._map.values() if self._map else ("instruction", "output_image")
        wanted = dict.fromkeys([*needed, *(() if self._map else (*FIELDS, *OWN_PICTURES))])
        self._rows = self._open([Column(column, "any", required=column in needed) for column in wanted])
        self.licence = Licence.named(licence or self._first_licence())

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files."""
        return self._rows.fingerprint()

    def identity(self) -> Mapping[str, Any]:
        """JSON values for the place and the options."""
        return {
            "kind": "parquet",
            "path": str(self._path.resolve()),
            "name": self.name,
            "licence": self._default_licence,
            "map": list(self._map.items()),
        }

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each row of the files; files and row groups that end before `start` are not read."""
        for found in self._rows.read(start):
            yield row(found.next, partial(self._record, found), origin=found.origin, files=[found.path])

    def __len__(self) -> int:
        return len(self._rows)

    def _open(self, columns: list[Column]) -> ParquetRows | SavedRows:
        kind = SavedRows if is_saved(self._path) else ParquetRows
        return kind(self._path, columns, advice=ADVICE)

    def _record(self, found: ParquetRow) -> Record:
        fields, images, target = (self._mapped if self._map else _own)(found.values)
        return from_fields(
            fields, images, target, dataset=self.name, licence=self._default_licence, origin=found.origin
        )

    def _mapped(self, values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Picture], Picture]:
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
                images += [picture(_bytes(item, what), cast(Role, what)) for item in items]
        if quality:
            fields["quality"] = quality
        return fields, images, picture(_bytes(values[self._map["target"]], "target"))

    def _first_licence(self) -> str:
        column = self._map.get("licence", "" if self._map else "licence")
        if not column:
            return "none"
        first = next(iter(self._open([Column(column, "any", required=False)]).read()), None)
        value = None if first is None else first.values[column]
        return value if isinstance(value, str) and value else "none"


def _own(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Picture], Picture]:
    """The pictures from the columns that an export writes."""
    found = values["input_images"] or []
    roles = roles_of(values["input_roles"], len(found))
    images = [picture(_bytes(item), role) for item, role in zip(found, roles, strict=True)]
    return values, images, picture(_bytes(values["output_image"], "target"))


def _check_map(given: Mapping[str, str]) -> None:
    allowed = (*FIELDS, *get_args(Role), "target")
    for what in given:
        if what not in allowed and not (what.startswith("quality.") and len(what) > len("quality.")):
            raise UsageError(f"--map {what}=... names nothing of a record; use quality.NAME or {', '.join(allowed)}.")
    for needed in ("instruction", "target") if given else ():
        if needed not in given:
            raise UsageError(f"--map says nothing of the {needed}; add --map {needed}=COLUMN.")


def _bytes(value: Any, what: str = "input") -> bytes:
    """The bytes of a picture column. Raises UnusableRow when there are none."""
    if value is None:
        raise UnusableRow(f"no {what} picture")
    if isinstance(value, Mapping):
        if value.get("bytes") is None:
            raise UnusableRow("picture that is only named in the file")
        value = value["bytes"]
    if not isinstance(value, bytes):
        raise UnusableRow("bad value of a picture")
    return value
