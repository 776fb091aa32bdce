"""Rewritten instructions kept on the disk, so that the same request is not asked twice.

Each answer is one small JSON file that only its owner can read. A damaged or unreadable entry counts as absent: a cache
may be lost at any time, so nothing may depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_ENTRIES = 2000
LARGEST_ENTRY = 64 * 1024


def default_folder() -> Path:
    """tagmoe/rewrite in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "tagmoe" / "rewrite"


class RewriteCache:
    """Answers by key: JSON objects of at most LARGEST_ENTRY bytes. Beyond `most` the least recently used go."""

    def __init__(self, folder: Path | None = None, *, most: int = MOST_ENTRIES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.most = most

    def read(self, key: str) -> dict[str, Any] | None:
        """The answer for a key; None where there is none or its entry is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST_ENTRY + 1)
            entry = json.loads(data) if len(data) <= LARGEST_ENTRY else None
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        value = entry.get("value")
        if not isinstance(value, dict) or entry.get("digest") != _digest(value):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # entries are removed in the order of their last use
        return value

    def write(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep an answer, whole or not at all. A full disk or an unwritable folder is not an error."""
        entry = {"key": key, "value": dict(value), "digest": _digest(value)}
        data = json.dumps(entry).encode()
        if len(data) > LARGEST_ENTRY:
            return
        partial = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp: readable by the owner alone, and a name that no other process writes.
            number, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self.folder)
            with os.fdopen(number, "wb") as file:
                file.write(data)
            os.replace(partial, self._path(key))
            self._drop_oldest()
        except OSError:
            if partial is not None:
                with contextlib.suppress(OSError):
                    os.unlink(partial)

    def _path(self, key: str) -> Path:
        # Hash the key once more, so that no key, whoever made it, can name a path outside the folder.
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    def _drop_oldest(self) -> None:
        """Above `most` entries keep the newest nine tenths, so that not every write has to remove files."""
        with os.scandir(self.folder) as entries:
            ages = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(".json")]
        if len(ages) > self.most:
            for _, path in sorted(ages)[: len(ages) - max(1, self.most * 9 // 10)]:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
