"""Find where a shot of a video begins, from small copies of its frames, in one pass.

A cut is a change that stands out among its neighbours, in the places of the colours and in how much there is of each: a
fast camera changes places in every frame, and a flash of light goes away again. Black frames belong to no shot. A slow
dissolve is no cut: the pairs across it show other scenes, and are left out for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tagmoe.factory.video.reading import Frame

AROUND = 4
"""Frames on each side that a change is compared with."""
LEAST = 8.0
"""Least mean change of the levels of all channels, 0 to 255, of a cut."""
RATIO = 3.0
"""Times that a cut changes more than the frames around it do."""
HISTOGRAM = 0.12
"""Least share of the pixels that have other colours after a cut."""
BACK = 0.5
"""After a flash the colours differ from those before it by less than this share of the change."""
BINS = 16
BLACK = 18.0
"""Levels below which all pixels of a black frame lie, but one in a hundred."""


class _Seen(NamedTuple):
    frame: Frame
    change: float
    colours: float


def shots(frames: Iterable[Frame], *, cuts: bool = True) -> Iterator[tuple[Frame, bool]]:
    """The frames but black ones, each with whether a shot begins with it. cuts: without it only black frames and
    frames of another size end a shot. AROUND frames are in memory ahead."""
    window: deque[_Seen] = deque()
    past: deque[_Seen] = deque(maxlen=AROUND)
    before: Frame | None = None
    anew = True
    for frame in frames:
        window.append(_Seen(frame, *_changes(before, frame)))
        before = frame
        if len(window) > AROUND:
            anew = yield from _next(window, past, anew, cuts)
    while window:
        anew = yield from _next(window, past, anew, cuts)


def _next(
    window: deque[_Seen], past: deque[_Seen], anew: bool, cuts: bool
) -> Generator[tuple[Frame, bool], None, bool]:
    """Give the next frame; returns whether the one after it begins a shot, whatever it shows."""
    seen = window.popleft()
    other_size = bool(past) and past[-1].frame.size != seen.frame.size
    begins = anew or other_size or (cuts and bool(past) and _is_cut(seen, past, window))
    if begins:
        past.clear()
    last = past[-1] if past else None
    past.append(seen if last is not None else seen._replace(change=0.0))
    if is_black(seen.frame.tiny):
        return True
    yield seen.frame, begins
    return False


def _is_cut(seen: _Seen, past: deque[_Seen], ahead: deque[_Seen]) -> bool:
    if seen.change < LEAST or seen.colours < HISTOGRAM:
        return False
    around = [one.change for one in (*past, *ahead)]
    if around and seen.change < RATIO * float(np.median(around)):
        return False
    # A flash begins or ends: a frame before and one after it have the same colours.
    before, after = ([_histograms(one.frame.tiny) for one in some] for some in (past, (seen, *ahead)))
    apart = [
        float(np.abs(one - other).sum() / 2)
        for place, one in enumerate(before)
        for number, other in enumerate(after)
        if number or place < len(before) - 1
    ]
    return not apart or min(apart) >= BACK * seen.colours


def _changes(before: Frame | None, frame: Frame) -> tuple[float, float]:
    if before is None:
        return 0.0, 0.0
    first, second = _histograms(before.tiny), _histograms(frame.tiny)
    return _difference(before.tiny, frame.tiny), float(np.abs(first - second).sum() / 2)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(np.int16) - second).mean())


def _histograms(tiny: np.ndarray) -> np.ndarray:
    """Shares of the levels of each channel, summing to 1 over all channels."""
    levels = (tiny.reshape(-1, 3) // (256 // BINS)).astype(np.int64) + BINS * np.arange(3)
    return np.bincount(levels.ravel(), minlength=3 * BINS) / levels.size


def is_black(tiny: np.ndarray) -> bool:
    """Whether a small copy shows nothing."""
    bright = (tiny >= BLACK).any(axis=2)
    return bool(bright.mean() < 0.01)
