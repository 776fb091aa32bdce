"""Where a store lies: its address, the lock of the process that writes, and errors in words that name the store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance

from tagmoe.errors import DataError
from tagmoe.sentences import LIMIT, cut

TABLE = "records.lance"
LOCK = "writer.lock"


def full_uri(uri: str | Path) -> str:
    """The address without a closing slash; a local path becomes absolute."""
    text = str(uri)
    return text.rstrip("/") if not is_local(text) else os.path.abspath(text)


def is_local(uri: str) -> bool:
    """Whether the store is a local folder rather than in an object store."""
    return "://" not in uri


def table_uri(uri: str) -> str:
    """The address of the table of the store at `uri`."""
    return f"{uri}/{TABLE}"


def is_store(uri: str) -> bool:
    """Whether there is a store: a table with a version. Raises DataError when the address cannot be read.

    A process that is killed while it makes a store leaves a folder without a version, which is no store yet.
    """
    if is_local(uri):
        table = Path(uri) / TABLE
        # A table that lost its versions but has data is a damaged store, not a place for a new one.
        return any((table / "_versions").glob("*.manifest")) or any((table / "data").glob("*"))
    with as_data_error(uri, "read"):
        try:
            lance.dataset(table_uri(uri))
        except ValueError as error:
            if "was not found" in str(error):
                return False
            raise
    return True


def another_writer(uri: str) -> DataError:
    """The error for a store that another process is writing."""
    return DataError(
        f"Another process is writing the store {uri!r}; wait until it has finished, then run the same command again."
    )


@contextmanager
def writer_lock(uri: str) -> Iterator[None]:
    """Lock a local store for writing. Raises DataError when another process holds the lock or the folder is read-only.

    Object stores have no lock: there, `Store` stops as soon as it sees a version that another process wrote.
    """
    if not is_local(uri):
        yield
        return
    try:
        handle = os.open(Path(uri) / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"Nothing can be written in the store {uri!r} ({error.strerror}).") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise another_writer(uri) from None
    finally:
        os.close(handle)


@contextmanager
def as_data_error(uri: str, action: str) -> Iterator[None]:
    """Turn an error of Lance into a DataError of one sentence: "The store URI cannot be ACTION: reason."

    Lance raises OSError, ValueError or RuntimeError for whatever goes wrong on a disk.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(", rust/")[0].split(", /")[0].split(": <?xml")[0]
        if "No space left" in reason or "os error 28" in reason:
            reason = "the disk is full; free some space and run the same command again"
        elif "ermission denied" in reason or "os error 13" in reason or "os error 30" in reason:
            reason = "permission denied"
        raise DataError(f"The store {uri!r} cannot be {action}: {cut(reason, 2 * LIMIT)}.") from error
