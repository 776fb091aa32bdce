"""Helpers for sources that read files: fingerprints of files, and pictures from files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Role
from tagmoe.errors import DataError, ImageError
from tagmoe.sentences import reason_of

MARK_BYTES = 65_536
MAX_FILE_BYTES = 256 << 20


def stamp(file: str | Path) -> tuple[int, int, int]:
    """(bytes, times of the last change of content and of state in nanoseconds) of a file, or of a link's target.

    (-1, 0, 0) of none. The time of the state is set by the system: a tool that restores the other leaves a trace in it.
    """
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def marks(files: Sequence[Path]) -> list[list[Any]]:
    """Path, size, time and a digest of the first and last 64 KiB of each file, for a fingerprint.

    Raises DataError when a file cannot be read.
    """
    return [_mark(file) for file in files]


@contextmanager
def reading(
    file: Path,
    complaint: str,
    errors: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
) -> Iterator[None]:
    """Turn an error of reading a file into the DataError "FILE COMPLAINT.", with the reason for {} in the complaint.

    errors: those to turn; by default what can go wrong with JSON of another shape than expected.
    """
    try:
        yield
    except errors as error:
        raise DataError(f"{str(file)!r} {complaint.format(reason_of(error))}.") from None


def picture(data: bytes, role: Role = "source") -> Picture:
    """The picture in these bytes. Raises UnusableRow with the reason."""
    try:
        return Picture.of(data, role)
    except ImageError as error:
        raise UnusableRow(str(error)) from None


def picture_of_file(path: Path, role: Role = "source") -> Picture:
    """The picture in a file, with its bytes unchanged. Raises UnusableRow with the reason."""
    try:
        if not path.is_file():
            raise UnusableRow("missing picture file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnusableRow("picture file of more than 256 MB")
        data = path.read_bytes()
    except (OSError, ValueError):
        # ValueError: a path with a zero byte
        raise UnusableRow("picture file that cannot be read") from None
    return picture(data, role)


def _mark(file: Path) -> list[Any]:
    try:
        with file.open("rb") as handle:
            digest = hashlib.sha256(handle.read(MARK_BYTES))
            size = handle.seek(0, 2)
            handle.seek(max(MARK_BYTES, size - MARK_BYTES))
            digest.update(handle.read(MARK_BYTES))
    except OSError as error:
        raise DataError(f"The file {str(file)!r} cannot be read ({error.strerror}).") from None
    return [str(file.resolve()), size, *stamp(file)[1:], digest.hexdigest()]
