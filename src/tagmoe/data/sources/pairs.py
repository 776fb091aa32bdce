"""Source of picture pairs in a folder: before/NAME.*, after/NAME.*, and the instruction in NAME.txt or one for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tagmoe.data.sources.files import picture_of_file, stamp
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.fields import UnusableRow, from_fields
from tagmoe.data.store.record import Record
from tagmoe.errors import DataError

MAX_TEXT = 65_536


class PairsSource:
    """The pairs of before/ and after/, sorted by name. instruction: used for names without a text file.

    Raises DataError when one of the two folders is missing.
    """

    def __init__(self, path: Path, name: str = "pairs", licence: str = "none", instruction: str | None = None) -> None:
        self.name = name
        self.licence = Licence.named(licence)
        self._path, self._instruction = path, instruction
        self._before, self._after = (_pictures(path, side) for side in ("before", "after"))
        self._names = sorted(self._before.keys() | self._after.keys())

    def identity(self) -> Mapping[str, Any]:
        """JSON values for the folder and the options."""
        return {
            "kind": "pairs",
            "folder": str(self._path.resolve()),
            "name": self.name,
            "licence": self.licence.name,
            "instruction": self._instruction,
        }

    def fingerprint(self) -> Mapping[str, Any]:
        """A digest of the files by name, size and time."""
        digest = hashlib.sha256()
        for name in self._names:
            for file in self._files(name):
                digest.update(f"{file.relative_to(self._path)}\0{stamp(file)}\0".encode(errors="surrogateescape"))
        return {"files": digest.hexdigest()}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each name."""
        for number, name in enumerate(self._names[start:], start + 1):
            yield row(number, partial(self._record, name), origin=name, files=self._files(name))

    def __len__(self) -> int:
        return len(self._names)

    def _files(self, name: str) -> tuple[Path, ...]:
        return (*self._before.get(name, ()), *self._after.get(name, ()), self._path / f"{name}.txt")

    def _record(self, name: str) -> Record:
        before, after = self._before.get(name, ()), self._after.get(name, ())
        if not before or not after:
            raise UnusableRow("no picture of this name in before" if not before else "no picture of this name in after")
        if len(before) > 1 or len(after) > 1:
            raise UnusableRow("several pictures of one name")
        fields = {"instruction": self._text(name)}
        if not fields["instruction"]:
            raise UnusableRow("no instruction")
        images, target = [picture_of_file(before[0])], picture_of_file(after[0])
        return from_fields(fields, images, target, dataset=self.name, licence=self.licence.name, origin=after[0].name)

    def _text(self, name: str) -> str | None:
        file = self._path / f"{name}.txt"
        if not file.is_file():
            return self._instruction
        try:
            with file.open("rb") as handle:
                return handle.read(MAX_TEXT).decode("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            raise UnusableRow("text file that cannot be read") from None


def _pictures(path: Path, side: str) -> dict[str, tuple[Path, ...]]:
    folder = path / side
    if not folder.is_dir():
        raise DataError(f"{str(path)!r} has no folder {side!r}; give a folder with before/NAME.png and after/NAME.png.")
    found: dict[str, tuple[Path, ...]] = {}
    for file in sorted(folder.iterdir()):
        if not file.name.startswith("."):
            found[file.stem] = (*found.get(file.stem, ()), file)
    return found
