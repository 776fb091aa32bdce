"""The files of a published benchmark, in a folder, a zip or a tar, read alike and never outside of it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from tagmoe.errors import DataError, UsageError
from tagmoe.sentences import reason_of

MOST_BYTES = 256 << 20
"""A larger file is no picture and no list of cases: a zip may hold one of any size in a few bytes."""


class Files(Protocol):
    """Files by their path from the root, with /."""

    def names(self) -> list[str]:
        """All files, sorted."""
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none. Raises DataError for one that cannot be read."""
        ...


class FolderFiles:
    """The files of a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """All files, sorted."""
        return sorted(path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes | None:
        """The bytes of a file in the folder."""
        path = self._root / name
        # Of a path that no file can have, `Path.is_file` raises.
        if not os.path.isfile(path):
            return None
        try:
            if path.stat().st_size > MOST_BYTES:
                raise DataError(f"{str(path)!r} is larger than {MOST_BYTES >> 20} MB.")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{str(path)!r} cannot be read ({reason_of(error)}).") from None


class ZipFiles:
    """The files of a zip."""

    def __init__(self, file: Path) -> None:
        """Raises DataError for a file that is no zip."""
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except Exception as error:
            # A damaged list of contents may be of an unknown version, or hold names that are no text.
            raise DataError(f"{str(file)!r} cannot be read as a zip ({reason_of(error)}); download it again.") from None
        self._known = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def names(self) -> list[str]:
        """All files, sorted."""
        return sorted(self._known)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file in the zip."""
        info = self._known.get(name)
        if info is None:
            return None
        if info.file_size > MOST_BYTES:
            raise DataError(f"{name!r} in {str(self._file)!r} is larger than {MOST_BYTES >> 20} MB.")
        try:
            return self._zip.read(info)
        except Exception as error:
            # Encrypted, of an unknown compression, or damaged: each has an error of its own.
            raise DataError(f"{name!r} in {str(self._file)!r} is damaged ({reason_of(error)}).") from None


class TarFiles:
    """The files of a tar that is not compressed."""

    def __init__(self, file: Path) -> None:
        """Raises DataError for a file that is no plain tar."""
        from tagmoe.data.sources.places import members

        self._file = file
        found = ((inside(member.name), member) for member in members(file))
        self._known = {name: member for name, member in found if name is not None}

    def names(self) -> list[str]:
        """All files, sorted."""
        return sorted(self._known)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file in the tar."""
        from tagmoe.data.sources.places import read_member
        from tagmoe.data.store.fields import UnusableRow

        member = self._known.get(name)
        if member is None:
            return None
        try:
            return read_member(self._file, member)
        except UnusableRow as error:
            raise DataError(f"{name!r} in {str(self._file)!r} cannot be read ({error}).") from None


def open_files(path: Path) -> Files:
    """The files in a folder, a zip or a tar. Raises UsageError where there is none, DataError for a broken file."""
    if path.is_dir():
        return FolderFiles(path)
    if path.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(f"{str(path)!r} is a compressed tar; unpack it and give the folder.")
    if path.is_file():
        return TarFiles(path) if path.suffix == ".tar" else ZipFiles(path)
    raise UsageError(f"There is no folder or zip {str(path)!r}; check the path.")


def inside(name: str) -> str | None:
    """A path from a file of others as a path from the root: without . parts; None for one that leads out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        return None
    return "/".join(part for part in parts if part != ".")
