"""Draw pairs of frames from the shots of a video, in one pass.

From each shot a first frame is drawn every few seconds, and the second at a gap that is uniform in its logarithm: short
moves are as frequent as long ones. No pair crosses the beginning of a shot. Which frames are drawn depends on nothing
but the seed, the video and the shot, so that a run that goes on draws the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.factory.video.reading import Frame

GRID = 0.25
"""Seconds between the frames that are kept to draw from."""
MARGIN = 0.15
"""Seconds after the beginning of a shot and before its end that are not drawn: cuts leave mixed frames."""
SLACK = 0.02
"""Seconds by which a gap may be too short or too long: the times of frames are rounded."""


@dataclass(frozen=True)
class Sampling:
    """How pairs are drawn. every: seconds between first frames. shortest, longest: seconds of a gap.

    Raises UsageError for a longest gap below the shortest.
    """

    seed: int = 0
    every: float = 2.0
    shortest: float = 0.5
    longest: float = 6.0

    def __post_init__(self) -> None:
        if self.longest < self.shortest:
            raise UsageError(
                f"The longest gap is {self.longest:g} s and the shortest {self.shortest:g} s; exchange them."
            )

    def as_data(self) -> dict[str, Any]:
        """The settings, for a digest."""
        return asdict(self)


@dataclass(frozen=True)
class Still:
    """A frame that was kept. pixels: (H, W, 3) uint8."""

    number: int
    time: float
    pixels: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Pair:
    """Two frames of one shot, the earlier first. shot: number of the frame that it begins with."""

    shot: int
    first: Still
    second: Still


def draw_pairs(frames: Iterable[tuple[Frame, bool]], key: str, sampling: Sampling) -> Iterator[Pair]:
    """The pairs of a video, in the order of their first frames. key: of the video.

    At most longest / GRID + every / GRID frames are in memory.
    """
    shot: _Shot | None = None
    for frame, begins in frames:
        if begins or shot is None:
            if shot is not None:
                yield from shot.end()
            shot = _Shot(frame, key, sampling)
        yield from shot.take(frame)
    if shot is not None:
        yield from shot.end()


class _Shot:
    def __init__(self, frame: Frame, key: str, sampling: Sampling) -> None:
        self._number, self._key, self._sampling = frame.number, key, sampling
        self._last = frame.time
        self._grid = frame.time + MARGIN
        self._held: list[Still] = []
        self._count = 0
        self._start = self._grid
        self._offset = self._random(0).random() * min(1.0, sampling.every) / 2
        self._anchor = self._start + self._offset

    def take(self, frame: Frame) -> Iterator[Pair]:
        """Keep the frame if it is on the grid, and give the pairs whose gaps lie behind it."""
        self._last = frame.time
        if frame.time >= self._grid - 1e-9:
            self._held.append(Still(frame.number, frame.time, frame.pixels()))
            self._grid = max(self._grid + GRID, frame.time + GRID / 2)
        while frame.time >= self._anchor + self._sampling.longest + GRID:
            yield from self._draw(frame.time)

    def end(self) -> Iterator[Pair]:
        """The pairs that are left at the end of the shot."""
        until = self._last - MARGIN
        if not self._count and self._anchor + self._sampling.shortest > until:
            # A short shot has a pair, too, if one fits.
            self._anchor = self._start
        while self._anchor + self._sampling.shortest <= until:
            yield from self._draw(until)
        self._held.clear()

    def _draw(self, until: float) -> Iterator[Pair]:
        there = [still for still in self._held if still.time <= until + 1e-9]
        first = next((still for still in there if still.time >= self._anchor - GRID / 2), None)
        if first is not None:
            gaps = [(still.time - first.time, still) for still in there]
            shortest, longest = self._sampling.shortest - SLACK, self._sampling.longest + SLACK
            fit = [pair for pair in gaps if shortest <= pair[0] <= longest]
            if fit:
                low = math.log(self._sampling.shortest)
                high = math.log(max(self._sampling.shortest, min(self._sampling.longest, fit[-1][0])))
                gap = math.exp(low + (high - low) * self._random(1).random())
                yield Pair(self._number, first, min(fit, key=lambda pair: abs(pair[0] - gap))[1])
        self._count += 1
        self._anchor = self._start + self._offset + self._count * self._sampling.every
        self._held = [still for still in self._held if still.time >= self._anchor - GRID / 2]

    def _random(self, part: int) -> random.Random:
        return random.Random(f"{self._sampling.seed}/{self._key}/{self._number}/{self._count}/{part}")
