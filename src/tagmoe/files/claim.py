"""Take the name of an output before the work starts, so that no work is lost or overwritten at its end.

A locked file `.tagmoe-<hash>.lock` beside the output takes the name. A killed process leaves the file, not its lock.
At the end the result takes the place only of what was there when the name was taken. Otherwise it is kept beside it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.sentences import reason_of

Identity = tuple[int, int, int] | None
# What file systems without locks or hard links answer.
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EINVAL)
MB = 2**20


@dataclass
class Claim:
    """A name that this process writes. path: with links followed. before: what was there when it was taken."""

    path: Path
    before: Identity
    lock: int | None
    note: Path

    def write(self, make: Callable[[Path], object], *, folder: bool = False) -> None:
        """Let `make` write the result to a path beside the place, then move it there.

        When that fails, the result is written to the folder for temporary files instead, and the error says where. So
        `make` may be called twice. Raises TagMoEError.
        """
        partial = self._partial()
        try:
            self._make(make, partial, folder)
        except OSError as error:
            _remove(partial)
            raise self._failed(error, self._rescue(make, folder)) from error
        except BaseException:
            _remove(partial)
            raise
        self._place(partial, folder)

    @contextmanager
    def fill(self) -> Iterator[Path]:
        """A new folder beside the place, which is moved there when the block succeeds and deleted when it fails.

        For results that are written piece by piece. Raises TagMoEError.
        """
        partial = self._partial()
        try:
            partial.mkdir()
            yield partial
        except OSError as error:
            _remove(partial)
            raise self._failed(error) from error
        except BaseException:
            _remove(partial)
            raise
        self._place(partial, folder=True)

    def release(self) -> None:
        """Give the name up."""
        if self.lock is not None:
            with suppress(OSError):
                self.note.unlink()
            os.close(self.lock)
            self.lock = None

    def _partial(self) -> Path:
        return self.path.with_name(f".tagmoe-{secrets.token_hex(4)}.partial")

    def _failed(self, error: OSError, kept: str = "") -> TagMoEError:
        rest = f"; the result is {kept!r}" if kept else ""
        return TagMoEError(f"The output {str(self.path)!r} cannot be written ({reason_of(error)}){rest}.")

    def _place(self, partial: Path, folder: bool) -> None:
        if identity(self.path) != self.before:
            raise TagMoEError(
                f"The output {str(self.path)!r} was written by another program meanwhile, so it was left alone; the "
                f"result is {str(self._keep(partial))!r}."
            )
        try:
            self._move(partial, folder)
        except OSError as error:
            raise self._failed(error, str(self._keep(partial))) from error

    def _make(self, make: Callable[[Path], object], place: Path, folder: bool) -> None:
        if folder:
            place.mkdir()
        make(place)

    def _rescue(self, make: Callable[[Path], object], folder: bool) -> str:
        try:
            place = Path(tempfile.mkdtemp(prefix="tagmoe-")) / self.path.name
            self._make(make, place, folder)
        except OSError:
            return ""
        return str(place)

    def _keep(self, partial: Path) -> Path:
        kept = partial.with_name(f"kept-{secrets.token_hex(4)}{self.path.suffix}")
        with suppress(OSError):
            os.rename(partial, kept)
            return kept
        return partial

    def _move(self, partial: Path, folder: bool) -> None:
        if folder and self.before is not None:
            # A folder cannot be replaced in one step. The old one comes back if the new one cannot take its place.
            old = self.path.with_name(f".tagmoe-{secrets.token_hex(4)}.old")
            os.rename(self.path, old)
            try:
                os.rename(partial, self.path)
            except OSError:
                os.rename(old, self.path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        elif folder or self.before is not None:
            os.replace(partial, self.path)
        else:
            # Unlike a rename, a link never replaces a file that has come meanwhile.
            try:
                os.link(partial, self.path)
                os.unlink(partial)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                os.replace(partial, self.path)


def identity(path: Path) -> Identity:
    """What tells one file from another of the same name; None where there is none."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino, 0 if path.is_dir() else facts.st_mtime_ns


def claim(path: Path, *, nbytes: int = MB) -> Claim:
    """Take the name `path`; a link is followed. It stays taken until `Claim.release` or the end of the process.

    nbytes: what must be free on the disk. Raises UsageError for a name that the file system does not take and when
    another command writes it, TagMoEError when nothing can be written there or the disk is full.
    """
    path = Path(os.path.realpath(path))
    note = path.with_name(f".tagmoe-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}.lock")
    taken = None
    try:
        identity(path)
        taken = Claim(path, None, _locked(note, path), note)
        # Looked at under the lock: a command that has just ended may have written it.
        taken.before = identity(path)
        if taken.before is None:
            # The only way to learn whether the file system takes the name.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.unlink(path)
        free = shutil.disk_usage(path.parent).free
        if free < nbytes:
            raise TagMoEError(
                f"The disk of {str(path.parent)!r} is full ({free / MB:.1f} MB free, {nbytes / MB:.1f} MB needed); "
                "free some space."
            )
    except BaseException as error:
        if taken is not None:
            taken.release()
        if isinstance(error, OSError):
            raise _refused(path, error) from error
        raise
    return taken


def _refused(path: Path, error: OSError) -> TagMoEError:
    """Why a name cannot be taken."""
    if isinstance(error, FileExistsError):
        return UsageError(f"The output {str(path)!r} was written by another program just now; choose another.")
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
        return UsageError(f"The output {path.name!r} has a name that cannot be used ({reason_of(error)}).")
    return TagMoEError(f"Nothing can be written in {str(path.parent)!r} ({reason_of(error)}).")


def _locked(note: Path, path: Path) -> int | None:
    """A locked file; None where the file system has no locks."""
    while True:
        handle = os.open(note, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(f"Another command is writing the output {str(path)!r}; choose another name.") from None
        except OSError as error:
            os.close(handle)
            with suppress(OSError):
                note.unlink()
            if error.errno in UNSUPPORTED:
                return None
            raise
        # The process that had it may have removed the file between the two calls; then the lock guards nothing.
        with suppress(FileNotFoundError):
            if os.stat(note).st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove what there is of a file or folder. A second error here would hide the first one."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
