"""Source of WebDataset tar files: the members KEY.* of a tar are one sample. Written by `tagmoe data export`, too.

The names in KEY.json are columns, and each other member is a column with the rest of its name ("1.0.jpg", and without
the ending of a picture "1.0"; a text as text). In tars of an export the JSON names the pictures by those rests. For
tars of others, `map` says which column is what (`field_map`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tagmoe.data.sources.files import marks
from tagmoe.data.sources.json_rows import object_of
from tagmoe.data.sources.mapped import MappedSource
from tagmoe.data.sources.places import Member, Sample, members, read_member
from tagmoe.data.sources.skipped import row
from tagmoe.data.sources.source import Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record
from tagmoe.errors import DataError

TEXTS = (".txt", ".caption", ".text", ".cls")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


class WebdatasetSource(MappedSource):
    """The samples of one tar, or of all *.tar below a folder in the order of their paths.

    ignored: files that are not read. The others are as of `MappedSource`.
    """

    kind = "webdataset"
    has_root = False

    def __init__(
        self,
        path: Path,
        name: str = "webdataset",
        licence: str | None = None,
        map: Mapping[str, str] | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """Raises DataError when there is no tar, and UsageError for a wrong map."""
        super().__init__(path, name, licence, map, constants)
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        self._files = [file for file in found if file.suffix.lower() == ".tar"]
        if not self._files:
            raise DataError(f"{str(path)!r} has no *.tar file; give a plain tar, or a folder of them.")
        self.ignored = tuple(file.name for file in found if file not in self._files)
        self.licence = self._named_licence(licence)
        self._count: int | None = None

    def adapted(self, values: dict[str, Any]) -> Mapping[str, Any]:
        """The columns of a sample, as a published set needs them."""
        return values

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the state of the files."""
        return {"kind": self.kind, "files": marks(self._files)}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each sample; of those before `start` only the headers are read."""
        number = 0
        for file in self._files:
            for key, found in samples(file):
                number += 1
                if number > start:
                    origin = f"{file.name}:{key}"
                    yield row(number, partial(self._record, file, key, found, origin), origin=origin, files=[file])

    def __len__(self) -> int:
        """Number of samples, estimated from the first tar by size."""
        if self._count is None:
            first = sum(1 for _ in samples(self._files[0]))
            sizes = [file.stat().st_size for file in self._files]
            self._count = round(first * sum(sizes) / max(1, sizes[0]))
        return self._count

    def _record(self, file: Path, key: str, found: Mapping[str, Member], origin: str) -> Record:
        values = _columns(file, found)
        self._fields.count(self._without_pictures_read(values))
        values.setdefault("id", key)
        return self._made(self.adapted(values), Sample(file, found), origin)

    def _without_pictures_read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The columns without the pictures that are read; of the two names of another picture the longer one."""
        inputs = values.get("input_images")
        listed = [values.get("output_image"), *(inputs if isinstance(inputs, list) else ())]
        found = dict(values)
        for rest in [name for name, value in values.items() if name == value]:
            short = _short(rest)
            found.pop(short, None)
            by_map = rest in self._fields.columns or short in self._fields.columns
            if by_map or (rest in listed and not self._fields.given):
                found.pop(rest, None)
            else:
                found[rest] = rest
        return found

    def _first_value(self, column: str) -> Any:
        for _, found in samples(self._files[0]):
            try:
                return _columns(self._files[0], found).get(column)
            except UnusableRow:
                return None
        return None


def samples(file: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, members by the rest of their names) of each sample: members with one key that follow each other.

    A name is split at the first dot of its last part, as webdataset does. Raises DataError for a damaged tar.
    """
    before: str | None = None
    found: dict[str, Member] = {}
    for member in members(file):
        folder, slash, last = member.name.rpartition("/")
        if last.startswith("._") or last == ".DS_Store":
            continue
        stem, _, rest = last.partition(".")
        key = f"{folder}{slash}{stem}"
        if key != before and found:
            yield str(before), found
            found = {}
        before, found[rest] = key, member
    if found:
        yield str(before), found


def _columns(file: Path, found: Mapping[str, Member]) -> dict[str, Any]:
    """The columns of a sample: names of pictures, texts, and the values of its JSON. Raises UnusableRow."""
    values: dict[str, Any] = {}
    for rest, member in found.items():
        suffix = "." + rest.rpartition(".")[2].lower()
        if suffix == ".json":
            values |= object_of(read_member(file, member))
        elif suffix in TEXTS:
            values[rest] = read_member(file, member).decode("utf-8", "replace").strip()
        elif suffix in PICTURES:
            values[rest] = rest
            values.setdefault(_short(rest), rest)
    return values


def _short(rest: str) -> str:
    """The name of a picture without its ending."""
    return rest.rpartition(".")[0] or rest
