"""Read videos, draw pairs of frames, filter them, and append those that pass to a store, in both directions."""

from __future__ import annotations

import base64
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tagmoe.data.check.validate import QUARANTINE
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import Record, as_table
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.factory.video.checks import VERSION, Limits, figures_of, kind_of
from tagmoe.factory.video.ledger import Ended, Ledgers, Seen, VideoLedger
from tagmoe.factory.video.looks import Known, Signature
from tagmoe.factory.video.pairs import Pair, Sampling, draw_pairs
from tagmoe.factory.video.reading import SUFFIXES, Frame, ReadLimits, digest_of, open_video
from tagmoe.factory.video.records import Origin, records_of
from tagmoe.factory.video.shots import shots

BATCH_RECORDS = 256
BATCH_BYTES = 64 << 20
BATCH_LINES = 2048
BATCH_SECONDS = 60.0
"""Records, bytes of their pictures, pairs that were measured, or seconds, after which they are written. A kill loses
what was not written, no more."""
KEPT_SHOWN, KEPT_OF_ONE = 24, 6
DROPPED_SHOWN, DROPPED_OF_ONE = 9, 3
"""Most pairs of a reason whose small copies are kept for the page: of all videos, and of one."""
WAITS = "empty instruction"
"""The check of `tagmoe data validate` that keeps a pair without words from being trained on."""
THUMB_SIDE = 200
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Settings:
    """How videos become records. dataset: name of their data set. licence_name: of the videos."""

    sampling: Sampling = field(default_factory=Sampling)
    checks: Limits = field(default_factory=Limits.of)
    reading: ReadLimits = field(default_factory=ReadLimits)
    dataset: str = "video"
    licence_name: str = "LicenseRef-unstated"

    @property
    def name(self) -> str:
        """The name of the data set, as a source has it."""
        return self.dataset

    @property
    def licence(self) -> Licence:
        """The licence, as a source has it."""
        return Licence.named(self.licence_name)

    def as_data(self) -> dict[str, Any]:
        """All that a verdict on a pair depends on."""
        return {
            "version": VERSION,
            "sampling": asdict(self.sampling),
            "checks": dict(self.checks.limits),
            "reading": asdict(self.reading),
            "dataset": self.dataset,
        }


@dataclass
class FileOutcome:
    """What became of a file. reason: one sentence, why it was not read, or not to its end. dropped: pairs by filter.
    digest: SHA-256 of the file, empty where it cannot be read."""

    name: str
    digest: str = ""
    reason: str = ""
    already: bool = False
    frames: int = 0
    seconds: float = 0.0
    shots: int = 0
    pairs: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    is_whole: bool = True

    def count(self, ledger: VideoLedger) -> None:
        """Take the counts of a ledger."""
        self.pairs = len(ledger.seen)
        self.kept = Counter(one.kind for one in ledger.seen if one.reason is None)
        self.dropped = Counter(one.reason for one in ledger.seen if one.reason is not None)
        if ledger.ended is not None:
            self.frames, self.seconds, self.shots = ledger.ended.frames, ledger.ended.seconds, ledger.ended.shots
            self.is_whole = ledger.ended.is_whole


@dataclass
class Outcome:
    """What a run did. files: in their order. added: records that it appended. folder: of the ledgers."""

    files: list[FileOutcome] = field(default_factory=list)
    added: int = 0
    folder: Path = Path()

    @property
    def failed(self) -> list[FileOutcome]:
        """The files that were not read, or not to their end."""
        return [one for one in self.files if one.reason]

    @property
    def pairs(self) -> int:
        """Pairs that were measured."""
        return sum(one.pairs for one in self.files)

    @property
    def kept(self) -> Counter[str]:
        """Kept pairs by kind."""
        return sum((one.kept for one in self.files), Counter())

    @property
    def dropped(self) -> Counter[str]:
        """Dropped pairs by filter."""
        return sum((one.dropped for one in self.files), Counter())


def files_of(given: Sequence[Path]) -> list[Path]:
    """The files, and of a folder those below it whose names end as those of videos do.

    Raises UsageError for a folder without any.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        if not inside:
            raise UsageError(f"The folder {str(path)!r} has no video file; give the files by name.")
        found += inside
    return found


def read_videos(
    store: Store, files: Sequence[Path], settings: Settings, *, progress: Progress = None, log: Callable[[str], None]
) -> Outcome:
    """Append the pairs of these files. The same call goes on after a kill, and appends nothing twice.

    progress: called with bytes done and all. A file that cannot be read is logged in one sentence, and the rest goes
    on. Raises DataError where the store cannot be written, UsageError for a licence that allows no derivatives.
    """
    if not settings.licence.derivatives:
        raise UsageError(f"The licence {settings.licence_name!r} allows no derivatives, and a frame of a video is one.")
    with store.writing():
        store.declare([QUARANTINE])
        return _Run(store, settings, files, progress, log).run()


class _Batch:
    """What waits to be written: records first, then the lines that say so."""

    def __init__(self, store: Store) -> None:
        self._store, self._known = store, KnownIds(store)
        self._lines: list[tuple[VideoLedger, Seen | Ended]] = []
        self._records: dict[str, Record] = {}
        self._bytes = 0
        self._written = time.monotonic()
        self.added = 0

    def add(self, ledger: VideoLedger, line: Seen | Ended, records: Sequence[Record] = ()) -> None:
        """Take a line and its records."""
        self._lines.append((ledger, line))
        self._records.update({record.id: record for record in records})
        self._bytes += sum(record.nbytes for record in records)
        is_large = self._bytes >= BATCH_BYTES or len(self._records) >= BATCH_RECORDS or len(self._lines) >= BATCH_LINES
        if is_large or time.monotonic() - self._written >= BATCH_SECONDS:
            self.write()

    def write(self) -> None:
        """Write everything."""
        known = self._known.among(list(self._records))
        new = [record for name, record in self._records.items() if name not in known]
        if new:
            waits = pa.array([[WAITS]] * len(new), QUARANTINE.type)
            self._store.append(as_table(new).append_column(QUARANTINE, waits))
            self._known.add([record.id for record in new])
            self.added += len(new)
        for ledger, line in self._lines:
            if isinstance(line, Seen):
                ledger.add([line])
            else:
                ledger.end(line)
        self._lines, self._records, self._bytes = [], {}, 0
        self._written = time.monotonic()


class _Run:
    def __init__(
        self, store: Store, settings: Settings, files: Sequence[Path], progress: Progress, log: Callable[[str], None]
    ) -> None:
        self._settings, self._files, self._log, self._progress = settings, files, log, progress
        self._ledgers = Ledgers(store.uri, settings.as_data())
        self._batch = _Batch(store)
        self._known = Known()
        self._shown: Counter[str | None] = Counter()
        self._shown_here: Counter[str | None] = Counter()
        self._sizes = [_size_of(path) for path in files]
        self._done = 0
        for ledger in self._ledgers.all():
            for one in ledger.seen:
                self._remember(one)

    def run(self) -> Outcome:
        outcome = Outcome(folder=self._ledgers.folder)
        read: list[FileOutcome] = []
        digests: set[str] = set()
        for path, size in zip(self._files, self._sizes, strict=True):
            found = FileOutcome(shown_name(path))
            outcome.files.append(found)
            try:
                found.digest = digest_of(path)
                if found.digest in digests:
                    found.already = True
                    continue
                digests.add(found.digest)
                read.append(found)
                ledger = self._ledgers.of(found.digest)
                found.already = ledger.ended is not None
                if not found.already:
                    self._read(path, found, ledger, size)
            except DataError as error:
                found.reason = str(error)
                self._log(f"left out: {found.reason}")
            self._done += size
            self._move(0, 0)
        self._batch.write()
        for found in read:
            found.count(self._ledgers.of(found.digest))
        outcome.added = self._batch.added
        return outcome

    def _read(self, path: Path, found: FileOutcome, ledger: VideoLedger, size: int) -> None:
        settings = self._settings
        origin = Origin(found.name, found.digest, settings.dataset, settings.licence_name)
        known = ledger.keys
        self._shown_here = Counter(one.reason for one in ledger.seen if one.thumbs)
        with open_video(path, settings.reading) as video:
            reading = _Reading(video.frames(), lambda seconds: self._move(size, seconds / (video.duration or 1e9)))
            for pair in draw_pairs(reading.shots(cuts=settings.checks.cuts), found.digest, settings.sampling):
                if (pair.first.number, pair.second.number) not in known:
                    self._judge(pair, ledger, origin)
        ended = Ended(found.name, reading.frames, round(reading.seconds, 3), reading.begun, video.is_whole)
        self._batch.add(ledger, ended)

    def _judge(self, pair: Pair, ledger: VideoLedger, origin: Origin) -> None:
        figures = figures_of(pair)
        signature = Signature.of(pair)
        figures["repeat"] = self._known.nearest(signature)
        kind = kind_of(figures)
        broken = self._settings.checks.broken(figures, kind)
        reason = broken[0] if broken else None
        most, of_one = (KEPT_SHOWN, KEPT_OF_ONE) if reason is None else (DROPPED_SHOWN, DROPPED_OF_ONE)
        is_shown = self._shown[reason] < most and self._shown_here[reason] < of_one
        stills = (pair.first, pair.second)
        seen = Seen(
            pair.shot,
            pair.first.number,
            pair.second.number,
            round(pair.first.time, 3),
            round(pair.second.time, 3),
            kind,
            reason,
            figures,
            signature.text() if reason is None else None,
            tuple(_thumb(still.pixels) for still in stills) if is_shown else (),
        )
        self._remember(seen)
        self._batch.add(ledger, seen, () if reason is not None else records_of(pair, kind, figures, origin))

    def _remember(self, seen: Seen) -> None:
        self._shown[seen.reason] += bool(seen.thumbs)
        self._shown_here[seen.reason] += bool(seen.thumbs)
        if seen.signature is not None:
            self._known.add(Signature.from_text(seen.signature))

    def _move(self, size: int, share: float) -> None:
        if self._progress is not None:
            self._progress(self._done + int(size * min(1.0, share)), max(1, sum(self._sizes)))


class _Reading:
    """Counts the frames of a video, and the shots that begin in it."""

    def __init__(self, frames: Iterator[Frame], progress: Callable[[float], None]) -> None:
        self._frames, self._progress = frames, progress
        self.frames, self.seconds, self.begun = 0, 0.0, 0

    def shots(self, *, cuts: bool) -> Iterator[tuple[Frame, bool]]:
        """The frames and whether a shot begins with each."""
        for frame, begins in shots(self._counted(), cuts=cuts):
            self.begun += begins
            yield frame, begins

    def _counted(self) -> Iterator[Frame]:
        for frame in self._frames:
            self.frames, self.seconds = frame.number + 1, frame.time
            if frame.number % 64 == 0:
                self._progress(frame.time)
            yield frame


def shown_name(path: Path) -> str:
    """The name of a file as text; a name that is no text has marks in the place of what cannot be read."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _thumb(pixels: np.ndarray) -> str:
    small = Image.fromarray(pixels)
    small.thumbnail((THUMB_SIDE, THUMB_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def seen_of(folder: Path, digests: Mapping[str, str]) -> Iterator[tuple[str, Seen]]:
    """(name of the file, pair) of all pairs of these videos, by the names of their digests."""
    for digest, name in digests.items():
        for one in VideoLedger(folder / f"{digest[:32]}.jsonl").seen:
            yield name, one
