"""Answers on the disk before their fragment is committed: what has been answered is not asked again after a kill.

A file of JSON lines for each fragment; a line that a kill tore apart is left out and its row asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tagmoe.annotation.answer import Annotation
from tagmoe.errors import DataError, UsageError


class Ledger:
    """The answers of one fragment by row. Raises DataError where nothing can be read or written."""

    def __init__(self, folder: Path, fragment: int) -> None:
        self._path = folder / f"fragment-{fragment}.jsonl"
        self._file: IO[bytes] | None = None

    def answers(self) -> dict[int, Annotation]:
        """The answers in the file, by row."""
        try:
            return _read(self._path) if self._path.exists() else {}
        except OSError as error:
            raise self._lost(error) from error

    def add(self, row: int, annotation: Annotation) -> None:
        """Keep an answer. It is given to the system at once: a killed process loses none, a lost machine the last."""
        try:
            if self._file is None:
                # what a kill tore apart must not join with the next line
                self._path.parent.mkdir(parents=True, exist_ok=True)
                torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
                self._file = self._path.open("ab", buffering=0)
                if torn:
                    self._file.write(b"\n")
            self._file.write(json.dumps([row, annotation.to_row()]).encode() + b"\n")
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """The fragment is committed: the file goes, and its folder where it was the last."""
        self.close()
        self._path.unlink(missing_ok=True)
        for folder in (self._path.parent, self._path.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return

    def _lost(self, error: OSError) -> DataError:
        return DataError(f"The answers {str(self._path)!r} cannot be kept ({error.strerror or error}).")


def _read(path: Path) -> dict[int, Annotation]:
    found: dict[int, Annotation] = {}
    for line in path.read_bytes().splitlines():
        try:
            row, values = json.loads(line)
            if isinstance(row, int) and isinstance(values, Mapping):
                found[row] = Annotation.from_row(values)
        except (ValueError, TypeError, KeyError, UsageError):
            continue
    return found
