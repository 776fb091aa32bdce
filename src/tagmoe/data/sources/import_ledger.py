"""What an import remembers of each row, in files beside the table: where skipped rows are, and how each row looked.

STORE/imports/NAME.skipped.jsonl   a line for each row without its record: {"row", "origin", "reason"}
STORE/imports/NAME.rows            8 bytes a row: a digest of its key and of the size and time of its files

A store in an object store has no such files: there, an import that is run again reads all rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tagmoe.data.sources.files import stamp
from tagmoe.data.sources.source import Row, Source
from tagmoe.data.store.location import is_local
from tagmoe.errors import DataError
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_lines import json_line
from tagmoe.sentences import reason_of

FOLDER = "imports"
UNKNOWN = 0


class Skipped(NamedTuple):
    """A row without its record. row: its `Row.next`. origin: where it stands, as "file:number"."""

    row: int
    origin: str
    reason: str


class Ledger:
    """The memory of one import. name: of its note."""

    def __init__(self, uri: str, source: Source, name: str) -> None:
        """Raises DataError when the files cannot be read."""
        self.skipped: list[Skipped] = []
        self._digests = array("Q")
        self._stamps: Callable[[str | Path], tuple[int, int, int]] = lru_cache(1024)(stamp)
        self._unwritten = 0
        self._writes = False
        self._file: Path | None = None
        if is_local(uri):
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)[:60]
            self._file = Path(uri) / FOLDER / f"{plain}-{name.rpartition('/')[2][:12]}"
            with _Said(self._file):
                self.skipped = list(_read(self.file_of_skipped))
                if self._rows.exists():
                    self._digests.frombytes(self._rows.read_bytes()[: self._rows.stat().st_size // 8 * 8])

    @property
    def file_of_skipped(self) -> Path:
        """The file of skipped rows."""
        assert self._file is not None
        return self._file.with_name(self._file.name + ".skipped.jsonl")

    @property
    def path(self) -> str | None:
        """The file of skipped rows, if there are any."""
        return str(self.file_of_skipped) if self._file is not None and self.skipped else None

    def begin(self, position: int) -> None:
        """Forget what was remembered of rows behind this position, which were not committed."""
        self.start_over(position)
        self._writes = True
        self.finish()

    def start_over(self, position: int) -> None:
        """As `begin`, but the files stay as they are until `finish`."""
        self.skipped = [item for item in self.skipped if item.row <= position]
        del self._digests[position:]
        self._writes = False

    def take_skipped(self) -> list[Skipped]:
        """The skipped rows, which the ledger forgets."""
        found, self.skipped = self.skipped, []
        return found

    def digest(self, row: Row) -> int:
        """How a row looks now: 64 bits of its key and of the size and times of its files.

        Asked before the row is read, so that a file that changes meanwhile looks otherwise the next time.
        """
        found = hashlib.blake2b(row.key, digest_size=8)
        if row.files:
            files = repr([(str(file), *self._stamps(file)) for file in row.files])
            found.update(files.encode(errors="surrogateescape"))
        return int.from_bytes(found.digest(), "big") or 1

    def has_read(self, row: Row) -> bool:
        """Whether the row was read before."""
        return 0 < row.next <= len(self._digests) and self._digests[row.next - 1] != UNKNOWN

    def is_unchanged(self, row: Row, digest: int) -> bool:
        """Whether the row was read before and looked like this."""
        return self.has_read(row) and self._digests[row.next - 1] == digest

    def note(self, row: Row, digest: int, reasons: Iterable[str] = ()) -> None:
        """Remember how a row looked, and why records of it were skipped."""
        if row.next > len(self._digests):
            self._digests.extend([UNKNOWN] * (row.next - len(self._digests)))
        self._digests[row.next - 1] = digest
        self.skip(row, reasons)

    def skip(self, row: Row, reasons: Iterable[str]) -> None:
        """Remember why records of a row were skipped."""
        self.skipped += [Skipped(row.next, row.origin, reason) for reason in reasons]

    def reasons(self) -> dict[str, int]:
        """The number of skipped records by reason."""
        return dict(sorted(Counter(item.reason for item in self.skipped).items()))

    def flush(self) -> None:
        """Write what is new, before the batch is committed. Raises DataError when the disk is full."""
        if self._file is None or not self._writes:
            return
        with _Said(self._file):
            self._file.parent.mkdir(exist_ok=True)
            if self._unwritten < len(self.skipped):
                with self.file_of_skipped.open("a", encoding="utf-8") as lines:
                    lines.writelines(map(_line, self.skipped[self._unwritten :]))
            with self._rows.open("ab") as handle:
                written = handle.tell() // 8
                self._digests[written:].tofile(handle)
        self._unwritten = len(self.skipped)

    def finish(self) -> None:
        """Write everything anew, at the end of an import. Raises DataError when the disk is full."""
        if self._file is None:
            return
        with _Said(self._file):
            self._file.parent.mkdir(exist_ok=True)
            self.skipped.sort()
            if self.skipped:
                write_whole(self.file_of_skipped, "".join(map(_line, self.skipped)))
            else:
                self.file_of_skipped.unlink(missing_ok=True)
            write_whole(self._rows, self._digests.tobytes())
        self._unwritten = len(self.skipped)

    @property
    def _rows(self) -> Path:
        assert self._file is not None
        return self._file.with_name(self._file.name + ".rows")


def _line(item: Skipped) -> str:
    return json_line(item._asdict())


def _read(file: Path) -> Iterator[Skipped]:
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            for text in lines:
                # The last line may be cut by a kill: its row is behind the position, and is read again.
                if text.endswith("\n"):
                    yield Skipped(**json.loads(text))


class _Said:
    """Turn an error of these files into a DataError that names them."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError | ValueError | TypeError):
            raise DataError(
                f"The record of the import, {str(self._file)!r}, cannot be read or written ({reason_of(error)})."
            ) from None
