"""Rewritten instructions kept on the disk, so that the same request is not asked twice.

One small JSON file an answer, readable by its owner alone. What cannot be read, or was damaged, is not there: a cache
may be lost at any time, and nothing depends on it.
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
    """Where the user's caches are (XDG), or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "tagmoe" / "rewrite"


class RewriteCache:
    """Answers by key: objects of JSON of at most LARGEST_ENTRY bytes, at most `most` of them; the oldest go first."""

    def __init__(self, folder: Path | None = None, *, most: int = MOST_ENTRIES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.most = most

    def read(self, key: str) -> dict[str, Any] | None:
        """The answer kept for a key; None where there is none that can be read whole."""
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
            os.utime(path)  # the age that decides which go first is that of the last use
        return value

    def write(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep an answer, whole or not at all. A full disk or a folder that cannot be written is no error."""
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
        # Keys are our digests; hashed once more, no key of anybody's can name a place elsewhere.
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    def _drop_oldest(self) -> None:
        """Down to nine tenths of `most` once there are more, so that not every write has to look at all files."""
        with os.scandir(self.folder) as entries:
            ages = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(".json")]
        if len(ages) > self.most:
            for _, path in sorted(ages)[: len(ages) - max(1, self.most * 9 // 10)]:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
