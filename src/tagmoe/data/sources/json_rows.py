"""Objects in JSON files, one after another: lines of JSONL, the items of an array, or the values of an object.

A file may be compressed with gzip. What a file holds is told by its content: `.json` files are published with an object
a line, too. An array is read item by item, so that its size does not matter.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tagmoe.data.sources.files import reading
from tagmoe.data.store.fields import UnusableRow
from tagmoe.errors import DataError
from tagmoe.files.json_files import names_once

ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
MAX_LINE = 16 << 20
"""Bytes of a line, or characters of an item of an array."""
CHUNK = 1 << 20
_BLANKS, _BETWEEN = re.compile(r"[ \t\r\n]*+"), re.compile(r"[ \t\r\n,]*+")
_DECODER = json.JSONDecoder(object_pairs_hook=names_once)
_READ_ERRORS = (OSError, EOFError, gzip.BadGzipFile)
_LISTS = ("data", "annotations", "items", "samples", "images", "rows", "records", "train")


def is_json(file: Path) -> bool:
    """Whether the name is that of a JSON file, compressed or not."""
    return file.name.lower().endswith(ENDINGS)


def items(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each object: for lines their number from 1, else the number of the item from 0.

    A blank line has no bytes. Raises DataError for a file that cannot be read, and for a broken array or object.
    """
    with reading(file, "cannot be read ({})", _READ_ERRORS), _opened(file) as handle:
        if not file.name.lower().removesuffix(".gz").endswith(".json"):
            yield from enumerate(_lines(handle), 1)
            return
        head = handle.read(CHUNK)
        start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        rest = io.BufferedReader(_Rest(head, handle))
        text = io.TextIOWrapper(rest, encoding="utf-8-sig", errors="surrogateescape")
        if start == b"[":
            yield from enumerate(_array(file, text))
        elif start == b"{" and not _is_lines(head):
            yield from _object_items(file, text)
        else:
            yield from enumerate(_lines(rest), 1)


def object_of(text: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. Raises UnusableRow for anything else."""
    try:
        value = _DECODER.decode(text.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise UnusableRow("line that is no JSON") from None
    if not isinstance(value, dict):
        raise UnusableRow("line that is no JSON object")
    return value


class _Rest(io.RawIOBase):
    """A file whose beginning was read already."""

    def __init__(self, head: bytes, handle: IO[bytes]) -> None:
        self._head, self._handle = head, handle

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._handle.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # type: ignore[return-value]


def _lines(handle: IO[bytes] | io.BufferedReader) -> Iterator[bytes]:
    """Lines without blanks at their ends. A line of more than 16 MB is cut: it is no JSON then, and is skipped."""
    while text := handle.readline(MAX_LINE):
        rest = text
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = handle.readline(MAX_LINE)
        yield text.strip()


def _is_lines(head: bytes) -> bool:
    """Whether the first line is an object by itself, and more follow: one line alone may be an object of objects."""
    first, _, rest = head.lstrip().partition(b"\n")
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _array(file: Path, text: IO[str]) -> Iterator[bytes]:
    """The items of an array. A break in it is an error of the file: what follows cannot be told apart."""
    decoder = json.JSONDecoder(object_pairs_hook=_shallow)
    # `rest` is cut with every chunk only: with every item, that would copy the chunk each time.
    rest, at, number, is_over = text.read(CHUNK).lstrip()[1:], 0, 0, False
    while True:
        at = (_BETWEEN if number else _BLANKS).match(rest, at).end()  # type: ignore[union-attr]
        if rest.startswith("]", at):
            return
        try:
            _, end = decoder.raw_decode(rest, at)
            if end == len(rest) and not is_over:
                raise ValueError("the item may go on")
            yield rest[at:end].encode("utf-8", "surrogateescape")
            at, number = end, number + 1
        except (ValueError, RecursionError):
            more = text.read(CHUNK)
            is_over = not more
            if is_over or len(rest) - at > MAX_LINE:
                raise DataError(
                    f"{str(file)!r} is damaged: its array breaks off or is no JSON after item {number}; copy or "
                    "download it again."
                ) from None
            rest, at = rest[at:] + more, 0


def _object_items(file: Path, text: IO[str]) -> Iterator[tuple[int, bytes]]:
    """The items of the list in an object, or else its values, each with its key as the id."""
    with reading(file, "is damaged ({}); copy or download it again"):
        value = json.loads(text.read())
    lists = [name for name in (*_LISTS, *value) if isinstance(value.get(name), list) and _objects(value[name])]
    if lists:
        found = value[lists[0]]
    elif value and all(isinstance(item, dict) for item in value.values()):
        found = [{"id": name, **item} for name, item in value.items()]
    else:
        found = [value]
    for number, item in enumerate(found):
        yield number, json.dumps(item).encode("utf-8", "surrogateescape")


def _objects(found: list[Any]) -> bool:
    return bool(found) and all(isinstance(item, dict) for item in found)


def _shallow(pairs: list[tuple[str, Any]]) -> None:
    """Objects are only passed over here; they are read one by one later."""
