"""Write a folder file by file: it appears whole or not at all, and a killed run resumes.

The files are written in `.NAME.partial` beside the target and the folder is renamed at the end. Each file is written to
`FILE.tmp`, synced to the disk and renamed, so a file under its own name is whole. A note in the folder holds the
fingerprint of the sources and settings. A call with the same fingerprint keeps the finished files; any other call
starts anew. The note is also the lock: a second process that writes the same target is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError, TagMoEError, UsageError
from tagmoe.files.atomic import put_in_place
from tagmoe.sentences import reason_of

NOTE = "unfinished.json"
CHUNK = 4 << 20
# The kernel copies this many bytes at a time, so that the progress bar moves and Ctrl-C works in between.
KERNEL_CHUNK = 64 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ByteRange:
    """Bytes of a file that are copied unchanged."""

    file: Path
    start: int
    nbytes: int


@dataclass(frozen=True)
class Made:
    """Computed bytes: `chunks()` yields them, a few MB at a time. It is called again for each attempt to write."""

    nbytes: int
    chunks: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class PlannedFile:
    """A file to write: its path in the folder (with /) and its content in order. The first literal bytes identify it:
    a finished file is kept when its size and these bytes are as planned."""

    name: str
    pieces: tuple[bytes | ByteRange | Made, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in self.pieces)


@dataclass(frozen=True)
class Written:
    """What was done: size of the whole folder, bytes written now, names of the files kept from an earlier call."""

    nbytes: int
    nbytes_now: int
    kept: tuple[str, ...]


Progress = Callable[[int, int], None]
Log = Callable[[str], None]


def write_folder(
    target: Path,
    files: Sequence[PlannedFile],
    *,
    fingerprint: Mapping[str, Any],
    replace: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Written:
    """Write `files` in their order and rename the folder to `target`.

    `fingerprint` (JSON values) says what the files are made from: finished ones are kept only when it is the same.
    `progress(bytes done, bytes in all)` is called often, `log` with a sentence when leftovers are discarded.

    Raises UsageError when the target is there already (without `replace`) or has no parent folder, TagMoEError when
    another process writes it or the disk is too small or becomes full, CheckpointError when a file to copy from
    cannot be read. Finished files are kept for the next call unless the source is at fault; nothing half-written stays.
    """
    target = Path(os.path.abspath(target))
    _check_target(target, replace)
    partial = partial_folder(target)
    with _claimed(partial, target) as note:
        try:
            _check_target(target, replace)
            _keep_or_discard(partial, note, dict(fingerprint), log)
            return _fill(partial, target, files, progress)
        except CheckpointError:
            # The source is at fault; once it has been repaired, what was made of it is of no use.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except OSError as error:
            raise TagMoEError(f"The output folder {str(target)!r} cannot be made ({reason_of(error)}).") from error
        finally:
            planned = {partial / file.name for file in files}
            if partial.is_dir() and planned.isdisjoint(_files(partial)):
                shutil.rmtree(partial, ignore_errors=True)


def partial_folder(target: Path) -> Path:
    """Where `target` is written before it is whole."""
    return target.with_name(f".{target.name}.partial")


def size_text(nbytes: int) -> str:
    """A size for people: 1.25 GB, 30.0 MB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def read_chunks(file: Path, start: int, nbytes: int, chunk: int = CHUNK) -> Iterator[bytes]:
    """The bytes of a file from `start`, `chunk` at a time.

    The file is read and not mapped, because mapped pages count as memory of the process. Raises CheckpointError when
    it cannot be read or is too short.
    """
    try:
        # With a buffer, `read` gives all that was asked, also where a signal or a network file system gives less.
        with file.open("rb") as handle:
            handle.seek(start)
            for left in range(nbytes, 0, -chunk):
                data = handle.read(min(chunk, left))
                if len(data) < min(chunk, left):
                    raise CheckpointError(f"The file {str(file)!r} became shorter while it was read; run again.")
                yield data
    except OSError as error:
        raise CheckpointError(f"The file {str(file)!r} cannot be read ({reason_of(error)}).") from error


def _check_target(target: Path, replace: bool) -> None:
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {str(target.parent)!r} for the output; create it or choose another.")
    if os.path.lexists(target) and not replace:
        raise UsageError(f"The output folder {str(target)!r} exists; choose another name.")


@contextmanager
def _claimed(partial: Path, target: Path) -> Iterator[int]:
    """The partial folder, made and locked by its note; yields the note's descriptor."""
    try:
        partial.mkdir(exist_ok=True)
        if partial.is_symlink() or ((any(partial.iterdir())) and not (partial / NOTE).is_file()):
            raise TagMoEError(
                f"The folder {str(partial)!r} is in the way and was not left by this command; move it elsewhere."
            )
        note = os.open(partial / NOTE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TagMoEError(f"Nothing can be written in {str(target.parent)!r} ({reason_of(error)}).") from error
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have finished in between; then this is the lock of a folder that was renamed.
        if not os.path.samestat(os.fstat(note), os.stat(partial / NOTE)):
            raise BlockingIOError
        yield note
    except (BlockingIOError, FileNotFoundError):
        raise TagMoEError(
            f"Another process is writing {str(target)!r}; wait until it has finished or choose another name."
        ) from None
    finally:
        os.close(note)


def _keep_or_discard(partial: Path, note: int, fingerprint: dict[str, Any], log: Log | None) -> None:
    """Keep the finished files of an earlier call with the same fingerprint; remove all others."""
    text = json.dumps(fingerprint, sort_keys=True)
    size = os.fstat(note).st_size
    earlier = os.pread(note, size, 0).decode("utf-8", errors="replace") if size else ""
    leftovers = [path for path in partial.iterdir() if path.name != NOTE]
    if earlier == text:
        return
    if leftovers and log is not None:
        log(f"leftovers of another run in {str(partial)!r} were removed: it had another source or other settings")
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.ftruncate(note, 0)
    os.pwrite(note, text.encode(), 0)
    os.fsync(note)


def _fill(partial: Path, target: Path, files: Sequence[PlannedFile], progress: Progress | None) -> Written:
    kept = tuple(file.name for file in files if _is_finished(partial / file.name, file))
    for path in _files(partial):
        if path.relative_to(partial).as_posix() not in kept:
            path.unlink()
    total = sum(file.nbytes for file in files)
    missing = [file for file in files if file.name not in kept]
    needed = sum(file.nbytes for file in missing)
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise TagMoEError(
            f"The disk of {str(target)!r} has {size_text(free)} free and {size_text(needed)} are needed; "
            "free some space or choose another disk."
        )
    done = total - needed

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    count(0)
    try:
        _write_all_files(partial, missing, count)
    except OSError as error:
        if error.errno not in FULL:
            raise
        left = sum(file.nbytes for file in missing if not (partial / file.name).exists())
        finished = sum((partial / file.name).exists() for file in files)
        raise TagMoEError(
            f"The disk of {str(target)!r} is full: {size_text(left)} more are needed; {finished} of {len(files)} "
            "files are finished and kept, so free some space and run the same command again."
        ) from error
    for folder in {partial, *((partial / file.name).parent for file in files)}:
        _sync_folder(folder)
    put_in_place(partial, target)
    _sync_folder(target.parent)
    (target / NOTE).unlink()
    return Written(nbytes=total, nbytes_now=needed, kept=kept)


def _is_finished(path: Path, planned: PlannedFile) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != planned.nbytes:
        return False
    head = planned.pieces[0] if planned.pieces and isinstance(planned.pieces[0], bytes) else b""
    with path.open("rb") as handle:
        return handle.read(len(head)) == head


def _write_all_files(partial: Path, files: Sequence[PlannedFile], count: Callable[[int], None]) -> None:
    """Write the files in their order. While one goes to the disk, the next is written already."""
    with ThreadPoolExecutor(1, "sync") as behind:
        syncing: Future[None] | None = None
        for planned in files:
            file = _Unfinished(partial / planned.name, planned)
            try:
                file.write(count)
                if syncing is not None:
                    syncing.result()
                syncing = behind.submit(file.finish)
            except BaseException:
                file.discard()
                raise
        if syncing is not None:
            syncing.result()


class _Unfinished:
    """A file under the name FILE.tmp, until all of it is on the disk."""

    def __init__(self, path: Path, planned: PlannedFile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._planned = path, planned
        self._own = path.with_name(f"{path.name}.tmp")
        self._handle = self._own.open("wb", buffering=0)

    def write(self, count: Callable[[int], None]) -> None:
        """Hand all bytes to the system."""
        for piece in self._planned.pieces:
            if isinstance(piece, ByteRange):
                _copy_range(piece, self._handle.fileno(), count)
                continue
            for chunk in (piece,) if isinstance(piece, bytes) else piece.chunks():
                _write_all(self._handle.fileno(), chunk)
                count(len(chunk))

    def finish(self) -> None:
        """Wait until the bytes are on the disk, then give the file its name."""
        try:
            os.fsync(self._handle.fileno())
            self._handle.close()
            size = self._own.stat().st_size
            if size != self._planned.nbytes:
                raise OSError(errno.EIO, f"{self._path.name} has {size} bytes, not {self._planned.nbytes}")
            os.replace(self._own, self._path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close and remove what has not been finished."""
        self._handle.close()
        self._own.unlink(missing_ok=True)


def _copy_range(piece: ByteRange, output: int, count: Callable[[int], None]) -> None:
    """Append the range to `output`: by the kernel, or through a buffer where the kernel cannot (another disk)."""
    start, left = piece.start, piece.nbytes
    if hasattr(os, "copy_file_range") and left:
        try:
            source = os.open(piece.file, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"The file {str(piece.file)!r} cannot be read ({reason_of(error)}).") from error
        try:
            while left:
                copied = os.copy_file_range(source, output, min(left, KERNEL_CHUNK), offset_src=start)
                if not copied:
                    break
                start, left = start + copied, left - copied
                count(copied)
        except OSError as error:
            if error.errno in FULL or error.errno in (errno.EIO, errno.EFBIG):
                raise
        finally:
            os.close(source)
    for chunk in read_chunks(piece.file, start, left):
        _write_all(output, chunk)
        count(len(chunk))


def _write_all(output: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if (path.is_symlink() or not path.is_dir()) and path != folder / NOTE]


def _sync_folder(folder: Path) -> None:
    # Not every file system can sync a folder; the files themselves are on the disk already.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
