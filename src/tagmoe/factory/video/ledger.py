"""What was found in each video, beside the store, so that the same command goes on and nothing is done twice.

STORE/videos/SETTINGS/DIGEST.jsonl   of one video under one set of settings: a line for each pair, and a last line
STORE/videos/SETTINGS/settings.json  what the settings are

A line is written after the records of its pair are in the store. A kill between the two leaves records whose ids are
known, so that the next run writes the line alone. A store in an object store has its ledgers in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tagmoe.data.store.location import is_local
from tagmoe.errors import DataError
from tagmoe.factory.video.checks import Kind
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_lines import json_line
from tagmoe.sentences import reason_of

FOLDER = "videos"


@dataclass(frozen=True)
class Seen:
    """A pair that was measured. first, second: numbers of its frames; time, end: their seconds. reason: the filter that
    dropped it, None if it was kept. signature: of a kept pair. thumbs: small JPEGs in base64, of those to be shown."""

    shot: int
    first: int
    second: int
    time: float
    end: float
    kind: Kind
    reason: str | None
    figures: Mapping[str, float]
    signature: str | None = None
    thumbs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A video that was read to its end. is_whole: whether no limit stopped it."""

    name: str
    frames: int
    seconds: float
    shots: int
    is_whole: bool = True


@dataclass
class VideoLedger:
    """The ledger of one video. Raises DataError where it cannot be read or written."""

    path: Path
    seen: list[Seen] = field(default_factory=list)
    ended: Ended | None = None

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        try:
            whole = 0
            with self.path.open("rb") as lines:
                for line in lines:
                    # A kill may cut the last line: its pair is measured again.
                    if not line.endswith(b"\n"):
                        break
                    self._read(json.loads(line))
                    whole += len(line)
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{str(self.path)!r} cannot be read ({reason_of(error)}); delete it.") from None

    def _read(self, values: dict[str, Any]) -> None:
        if "frames" in values:
            self.ended = Ended(**values)
        else:
            self.seen.append(Seen(**{**values, "thumbs": tuple(values["thumbs"])}))

    @property
    def keys(self) -> set[tuple[int, int]]:
        """The pairs that were measured, by the numbers of their frames."""
        return {(one.first, one.second) for one in self.seen}

    def add(self, seen: Iterable[Seen]) -> None:
        """Write the lines of pairs."""
        some = list(seen)
        self._append([asdict(one) for one in some])
        self.seen += some

    def end(self, ended: Ended) -> None:
        """Write the last line."""
        self._append([asdict(ended)])
        self.ended = ended

    def _append(self, values: list[dict[str, Any]]) -> None:
        if not values:
            return
        try:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.writelines(map(json_line, values))
        except OSError as error:
            raise DataError(f"Nothing can be written to {str(self.path)!r} ({reason_of(error)}).") from None


class Ledgers:
    """The ledgers of a store under one set of settings. Raises DataError where nothing can be written."""

    def __init__(self, uri: str, settings: Mapping[str, Any]) -> None:
        text = json.dumps(dict(settings), sort_keys=True, indent=1)
        self.folder = _root(uri) / hashlib.sha256(text.encode()).hexdigest()[:12]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "settings.json").exists():
                write_whole(self.folder / "settings.json", text + "\n")
        except OSError as error:
            raise DataError(f"Nothing can be written in {str(self.folder)!r} ({reason_of(error)}).") from None

    def of(self, digest: str) -> VideoLedger:
        """The ledger of the video with this digest."""
        return VideoLedger(self.folder / f"{digest[:32]}.jsonl")

    def all(self) -> Iterator[VideoLedger]:
        """All ledgers under these settings, in a fixed order."""
        for path in sorted(self.folder.glob("*.jsonl")):
            yield VideoLedger(path)


def _root(uri: str) -> Path:
    if is_local(uri):
        return Path(uri) / FOLDER
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tagmoe" / FOLDER / hashlib.sha256(uri.encode()).hexdigest()[:16]
