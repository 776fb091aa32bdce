"""Uncommitted answers on the disk, so that a run after a kill does not ask for them again.

There is one file of JSON lines for each fragment. If a kill left half a line, it is ignored and its row asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tagmoe.annotation.ask.asker import RowAnswer
from tagmoe.errors import DataError, UsageError


class Ledger:
    """The answers of one fragment by row. read: makes an answer of its values. Raises DataError where nothing can be
    read or written."""

    def __init__(self, folder: Path, fragment: int, read: Callable[[Mapping[str, Any]], RowAnswer]) -> None:
        self.path = folder / f"fragment-{fragment}.jsonl"
        self._read = read
        self._file: IO[bytes] | None = None

    def answers(self) -> dict[int, RowAnswer]:
        """The answers in the file, by row."""
        try:
            return self._lines() if self.path.exists() else {}
        except OSError as error:
            raise self._lost(error) from error

    def add(self, row: int, found: RowAnswer) -> None:
        """Save an answer. It is not buffered, so a killed process loses none; a power cut may lose the last ones."""
        try:
            if self._file is None:
                # End the half line that a kill left, so that the next answer begins a new line.
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
                self._file = self.path.open("ab", buffering=0)
                if torn:
                    self._file.write(b"\n")
            self._file.write(json.dumps([row, found.to_row()]).encode() + b"\n")
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file, after its fragment was committed, and the folder if it is empty then."""
        self.close()
        self.path.unlink(missing_ok=True)
        for folder in (self.path.parent, self.path.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return

    def _lost(self, error: OSError) -> DataError:
        return DataError(f"Answers cannot be saved in {str(self.path)!r} ({error.strerror or error}).")

    def _lines(self) -> dict[int, RowAnswer]:
        found: dict[int, RowAnswer] = {}
        for line in self.path.read_bytes().splitlines():
            try:
                row, values = json.loads(line)
                if isinstance(row, int) and isinstance(values, Mapping):
                    found[row] = self._read(values)
            except (ValueError, TypeError, KeyError, UsageError):
                continue
        return found
