"""Source of JSON and picture files: one sample an object, written by `tagmoe data export` or published by others.

    {"instruction": "make it night", "input_images": ["day.jpg"], "output_image": "night.jpg", "tags": [...]}

`input_images` may be empty or missing (text-to-image). `input_roles` names the role of each picture; by default the
first is the source and the others are references. Other fields are those of `data.store.fields.FIELDS`. For files with
other names, `map` says which is what (`field_map`). Pictures are files in the folder of the JSON file or below it, or
in `root`, or stand in the object as base64: nothing else is read or downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tagmoe.data.sources.files import marks
from tagmoe.data.sources.json_rows import is_json, items, object_of
from tagmoe.data.sources.mapped import MappedSource
from tagmoe.data.sources.places import Folder, Place, place_of
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.errors import DataError

_SAMPLE_ROWS = 500


class JsonlSource(MappedSource):
    """The objects of one JSON file, or of all of a folder in the order of their names.

    ignored: files of the folder that are not read. The others are as of `MappedSource`.
    """

    kind = "jsonl"

    def __init__(
        self,
        path: Path,
        name: str = "jsonl",
        licence: str | None = None,
        map: Mapping[str, str] | None = None,
        constants: Mapping[str, str] | None = None,
        root: str | Path | None = None,
    ) -> None:
        """Raises DataError when there is no JSON file, and UsageError for a wrong map or root."""
        super().__init__(path, name, licence, map, constants, root)
        self._files = self.json_files(path)
        if not self._files:
            raise DataError(
                f"The folder {str(path)!r} has no *.jsonl or *.json file; give a JSON file or a folder of them."
            )
        here = [] if path.is_file() else sorted(path.iterdir())
        self.ignored = tuple(file.name for file in here if file.is_file() and file not in self._files)
        self._place = None if self._root is None else place_of(self._root)
        self.licence = self._named_licence(licence)
        self._count: int | None = None

    def json_files(self, path: Path) -> list[Path]:
        """The files to read, in order."""
        return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file() and is_json(file))

    def place(self, file: Path) -> Place:
        """Where the pictures that a file names lie."""
        return self._place or Folder(file.parent)

    def unfolded(self, values: Mapping[str, Any], file: Path) -> list[Mapping[str, Any]]:
        """The samples in an object: one, or for example the turns of a conversation. Raises UnusableRow."""
        return [values]

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files."""
        return {"kind": self.kind, "files": marks(self._files)}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each object. `start` counts objects, and lines; pictures of rows before it are not read."""
        number = 0
        for file in self._files:
            place = self.place(file)
            for at, text in items(file):
                number += 1
                if number > start and text:
                    yield self._row(number, text, file, place, f"{file.name}:{at}")

    def __len__(self) -> int:
        """Number of rows; for large files an estimate from the length of the first ones."""
        if self._count is None:
            seen = count = 0
            for file in self._files:
                for _, text in items(file):
                    seen, count = seen + len(text) + 1, count + 1
                    if count >= _SAMPLE_ROWS:
                        break
                if count >= _SAMPLE_ROWS:
                    break
            size = sum(file.stat().st_size for file in self._files)
            self._count = count if count < _SAMPLE_ROWS else max(count, round(size * count / max(1, seen)))
        return self._count

    def _row(self, number: int, text: bytes, file: Path, place: Place, origin: str) -> Row:
        try:
            found = object_of(text)
            samples = self.unfolded(found, file)
        except UnusableRow as reason:
            return Row(number, skipped=(str(reason),), origin=origin, key=text)
        self._fields.count(found)
        files = [name for values in samples for name in self._fields.files(values, place)]
        makers = [partial(self._made, values, place, origin) for values in samples]
        return row(number, *makers, origin=origin, files=files, key=text)

    def _first_value(self, column: str) -> Any:
        for file in self._files:
            for _, text in items(file):
                if text:
                    try:
                        return object_of(text).get(column)
                    except UnusableRow:
                        return None
        return None
