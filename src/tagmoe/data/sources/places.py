"""Where the pictures of a row lie: below a folder, in tar files, or in the members of one sample.

Nothing outside is read, and nothing is downloaded. A folder of the cache of the hub consists of links into the folder
`blobs` of the same repository, and those are followed.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from tagmoe.data.sources.files import MAX_FILE_BYTES, reading
from tagmoe.data.store.fields import UnusableRow
from tagmoe.errors import UsageError
from tagmoe.sentences import counted

MOST_LINKS = 40
"""Links that lead from one to the next, as the system follows them at most."""


class Place(Protocol):
    """What names of pictures are looked up in."""

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises UnusableRow when there is none, or it lies outside."""
        ...

    def file(self, name: str) -> str | None:
        """The path of the file on the disk that holds it; None where the name is none of this place."""
        ...


class Folder:
    """A folder and all below it. A path that begins with a slash must lie in it, too."""

    def __init__(self, path: Path) -> None:
        self._real = os.path.realpath(path).rstrip(os.sep)
        self._allowed = tuple(f"{folder}{os.sep}" for folder in (self._real, *map(str, _blobs(path))))
        # Many pictures lie in few folders, so that the links on the way to a folder are followed once.
        self._folders = lru_cache(4096)(os.path.realpath)
        # A row asks for the files of its names and then for their bytes.
        self._inside = lru_cache(256)(self._found)

    def read(self, name: str) -> bytes:
        try:
            # The path has no link at its end any more. O_NONBLOCK: a named pipe must not be waited for.
            handle = os.open(self._inside(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                about = os.fstat(handle)
                if not stat.S_ISREG(about.st_mode):
                    raise UnusableRow("missing picture file")
                if about.st_size > MAX_FILE_BYTES:
                    raise UnusableRow("picture file of more than 256 MB")
                return _whole(handle, about.st_size)
            finally:
                os.close(handle)
        except FileNotFoundError:
            raise UnusableRow("missing picture file") from None
        except (OSError, ValueError):
            raise UnusableRow("picture file that cannot be read") from None

    def file(self, name: str) -> str | None:
        try:
            return self._inside(name)
        except UnusableRow:
            return None

    def _found(self, name: str) -> str:
        """The file of this path, through links. Raises UnusableRow when it lies outside the folder."""
        try:
            path = self._followed(name if name.startswith(os.sep) else f"{self._real}{os.sep}{name}")
        except (OSError, ValueError):
            # ValueError: a path with a zero byte
            raise UnusableRow("bad path of a picture") from None
        if not f"{path}{os.sep}".startswith(self._allowed):
            raise UnusableRow("path of a picture outside the folder")
        return path

    def _followed(self, path: str) -> str:
        """What `os.path.realpath` gives, with one look at the disk for a file that is no link."""
        for _ in range(MOST_LINKS):
            folder, _, last = path.rpartition(os.sep)
            if last in ("", os.curdir, os.pardir):
                return os.path.realpath(path)
            folder = self._folders(folder or os.sep)
            path = f"{folder.rstrip(os.sep)}{os.sep}{last}"
            try:
                if not stat.S_ISLNK(os.lstat(path).st_mode):
                    return path
                path = os.path.join(folder, os.readlink(path))
            except OSError:
                # There is no such file, or it cannot be seen; reading it says which.
                return path
        return path


def _whole(handle: int, size: int) -> bytes:
    """The first `size` bytes of an open file, or all if it has become shorter; mostly with one call."""
    data = os.read(handle, size)
    while len(data) < size and (more := os.read(handle, size - len(data))):
        data += more
    return data


class Member(NamedTuple):
    """A file in a tar: where its bytes are."""

    name: str
    offset: int
    size: int


class Tars:
    """The files in one or several tar files, by the names they have there."""

    def __init__(self, files: list[Path]) -> None:
        """Raises DataError for a file that is no plain tar."""
        self._members: dict[str, tuple[Path, Member]] = {}
        for file in files:
            for member in members(file):
                self._members.setdefault(_plain(member.name), (file, member))

    def read(self, name: str) -> bytes:
        file, member = self._found(name)
        return read_member(file, member)

    def file(self, name: str) -> str | None:
        found = self._members.get(_plain(name))
        return None if found is None else str(found[0])

    def _found(self, name: str) -> tuple[Path, Member]:
        found = self._members.get(_plain(name))
        if found is None:
            raise UnusableRow("missing picture in the tar files")
        return found


class Sample:
    """The members of one sample of a tar, by the rest of their names."""

    def __init__(self, file: Path, given: Mapping[str, Member]) -> None:
        self._file, self._given = file, given

    def read(self, name: str) -> bytes:
        if name not in self._given:
            raise UnusableRow("missing picture in the sample")
        return read_member(self._file, self._given[name])

    def file(self, name: str) -> str | None:
        return str(self._file) if name in self._given else None


def place_of(root: Path) -> Place:
    """The place that a user named: a folder, or a tar file. Raises UsageError for anything else."""
    if root.is_dir():
        return Folder(root)
    if root.is_file() and tarfile.is_tarfile(root):
        return Tars([root])
    raise UsageError(f"The root {str(root)!r} is no folder and no tar file; give where the pictures lie.")


def members(file: Path) -> Iterator[Member]:
    """The files in a tar, in its order; no content is read. Raises DataError for what is no plain tar."""
    errors = (OSError, tarfile.TarError, EOFError, ValueError)
    complaint = "is damaged or no plain tar ({}); unpack what is compressed"
    with reading(file, complaint, errors), tarfile.open(file, "r:") as tar:
        for item in tar:
            if item.isreg():
                yield Member(item.name, item.offset_data, item.size)


def read_member(file: Path, member: Member) -> bytes:
    """The bytes of a file in a tar. Raises UnusableRow when they are cut off or too many."""
    if member.size > MAX_FILE_BYTES:
        raise UnusableRow("picture file of more than 256 MB")
    try:
        with file.open("rb") as handle:
            handle.seek(member.offset)
            data = handle.read(member.size)
    except OSError:
        raise UnusableRow("picture file that cannot be read") from None
    if len(data) < member.size:
        raise UnusableRow("picture cut off with its tar file")
    return data


def _plain(name: str) -> str:
    return name.removeprefix("./").lstrip("/")


def snapshot_of(path: Path) -> Path:
    """The snapshot in a folder of the cache of the hub; any other path as it is.

    Raises UsageError when there are several and the branch `main` is none of them.
    """
    if not ((path / "snapshots").is_dir() and (path / "blobs").is_dir()):
        return path
    found = sorted(folder for folder in (path / "snapshots").iterdir() if folder.is_dir())
    main = path / "refs" / "main"
    if main.is_file():
        with reading(main, "cannot be read ({})"):
            newest = main.read_text(encoding="utf-8").strip()
        found = [folder for folder in found if folder.name == newest] or found
    if len(found) != 1:
        raise UsageError(f"{str(path)!r} has {counted(found, 'snapshot')}; give the folder of one of them.")
    return found[0]


def _blobs(path: Path) -> Iterator[Path]:
    """The folder of blobs, where the path lies in a snapshot of the cache of the hub."""
    parts = Path(os.path.abspath(path))
    for folder in (parts, *parts.parents):
        if folder.parent.name == "snapshots" and (blobs := folder.parent.parent / "blobs").is_dir():
            yield Path(os.path.realpath(blobs))
