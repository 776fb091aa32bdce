"""Source of JSONL and picture files: one sample a line, written by `tagmoe data export` or by hand.

    {"instruction": "make it night", "input_images": ["day.jpg"], "output_image": "night.jpg", "tags": [...]}

`input_images` may be empty or missing (text-to-image). `input_roles` names the role of each picture; by default the
first is the source and the others are references. Other fields are those of `data.store.fields.FIELDS`; unknown fields
are ignored. Pictures are files in the folder of the JSONL file or below it: nothing else is read or downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from tagmoe.data.sources.files import marks, picture_of_file
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.fields import UnusableRow, from_fields, roles_of
from tagmoe.data.store.record import Record
from tagmoe.errors import DataError
from tagmoe.files.json_files import names_once

MAX_LINE = 16 << 20
_SAMPLE_BYTES = 1 << 20


class JsonlSource:
    """The lines of one JSONL file, or of all *.jsonl files of a folder in the order of their names.

    name, licence: defaults for lines that state none. Without `licence`, a user must accept that of the first line.
    """

    def __init__(self, path: Path, name: str = "jsonl", licence: str | None = None) -> None:
        self.name, self._path = name, path
        self._files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
        if not self._files:
            raise DataError(f"The folder {str(path)!r} has no *.jsonl file; give a JSONL file or a folder of them.")
        self._default_licence = licence or "none"
        self.licence = Licence.named(licence or self._first_licence())
        self._lines: int | None = None

    def identity(self) -> Mapping[str, Any]:
        """JSON values for the place and the options."""
        return {
            "kind": "jsonl",
            "path": str(self._path.resolve()),
            "name": self.name,
            "licence": self._default_licence,
        }

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files."""
        return {"kind": "jsonl", "files": marks(self._files)}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each line that is not blank. `start` counts lines; pictures of lines before it are not read."""
        number = 0
        for file in self._files:
            folder = Path(os.path.realpath(file.parent))
            with file.open("rb") as handle:
                for line, text in enumerate(_lines(handle), 1):
                    number += 1
                    if number > start and text:
                        origin = f"{file.name}:{line}"
                        make = partial(self._record, text, folder, origin)
                        yield row(number, make, origin=origin, files=_files(text, folder), key=text)

    def __len__(self) -> int:
        """Number of lines; for large files an estimate from the length of the first lines."""
        if self._lines is None:
            size = sum(file.stat().st_size for file in self._files)
            sample = b""
            for file in self._files:
                with file.open("rb") as handle:
                    sample += handle.read(_SAMPLE_BYTES - len(sample))
                if len(sample) == _SAMPLE_BYTES:
                    break
            self._lines = round(sample.count(b"\n") * size / max(1, len(sample)))
        return self._lines

    def _first_licence(self) -> str:
        for file in self._files:
            with file.open("rb") as handle:
                for text in _lines(handle):
                    try:
                        found = _object(text).get("licence") if text else None
                    except UnusableRow:
                        found = None
                    if text:
                        return found if isinstance(found, str) and found else "none"
        return "none"

    def _record(self, text: bytes, folder: Path, origin: str) -> Record:
        fields = _object(text)
        given = fields.get("input_images")
        paths = [] if given is None else given
        if not isinstance(paths, list):
            raise UnusableRow("bad value of 'input_images'")
        roles = roles_of(fields.get("input_roles"), len(paths))
        if fields.get("output_image") is None:
            raise UnusableRow("no target picture")
        target = picture_of_file(_inside(folder, fields["output_image"]))
        images = [picture_of_file(_inside(folder, path), role) for path, role in zip(paths, roles, strict=True)]
        return from_fields(fields, images, target, dataset=self.name, licence=self._default_licence, origin=origin)


def _files(text: bytes, folder: Path) -> list[Path]:
    """The picture files that a line names."""
    with suppress(UnusableRow, TypeError):
        fields = _object(text)
        names = [*(fields.get("input_images") or ()), fields.get("output_image")]
        return [folder / name for name in names if isinstance(name, str)]
    return []


def _lines(handle: BinaryIO) -> Iterator[bytes]:
    """Lines without blanks at their ends. A line of more than 16 MB is cut: it is no JSON then, and is skipped."""
    while text := handle.readline(MAX_LINE):
        rest = text
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = handle.readline(MAX_LINE)
        yield text.strip()


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=names_once)
    except (ValueError, RecursionError):
        raise UnusableRow("line that is no JSON") from None
    if not isinstance(value, dict):
        raise UnusableRow("line that is no JSON object")
    return value


def _inside(folder: Path, name: Any) -> Path:
    """The file of this relative path. Raises UnusableRow when it lies outside the folder, also through a link."""
    if not isinstance(name, str) or not name:
        raise UnusableRow("bad path of a picture")
    if "://" in name or name.startswith("data:"):
        raise UnusableRow("URL of a picture, and nothing is fetched")
    try:
        path = Path(os.path.realpath(folder / name))
    except (OSError, ValueError):
        raise UnusableRow("bad path of a picture") from None
    if not path.is_relative_to(folder):
        raise UnusableRow("path of a picture outside the folder")
    return path
