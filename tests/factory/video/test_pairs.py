"""Pairs are drawn within shots, at the gaps that were asked for, in bounded memory, and always the same."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from tagmoe.errors import UsageError
from tagmoe.factory.video.pairs import GRID, MARGIN, SLACK, Pair, Sampling, draw_pairs
from tagmoe.factory.video.reading import Frame

TINY = np.zeros((27, 48, 3), np.uint8)


def frames(*lengths: float, fps: int = 24) -> Iterator[tuple[Frame, bool]]:
    """Shots of so many seconds; the pixels of a frame are its number."""
    number = 0
    for length in lengths:
        for place in range(round(length * fps)):
            yield Frame(number, number / fps, TINY, (1, 1), lambda number=number: np.array([[number]])), place == 0  # type: ignore[misc]
            number += 1


def drawn(*lengths: float, key: str = "k", **given: float) -> list[Pair]:
    return list(draw_pairs(frames(*lengths), key, Sampling(**given)))  # type: ignore[arg-type]


def test_no_pair_crosses_the_beginning_of_a_shot_or_comes_near_it() -> None:
    pairs = drawn(3.0, 0.5, 1.25, 10.0)
    starts = [0.0, 3.0, 3.5, 4.75, 14.75]
    assert {pair.shot for pair in pairs} == {0, 84, 114}, "one shot is too short"
    for pair in pairs:
        start, end = next((a, b) for a, b in itertools.pairwise(starts) if a <= pair.first.time < b)
        assert start + MARGIN - 0.03 <= pair.first.time < pair.second.time <= end - MARGIN + 0.03


def test_gaps_are_within_their_bounds_and_short_ones_are_as_frequent_as_long_ones() -> None:
    pairs = drawn(*[60.0] * 20)
    gaps = np.array([pair.second.time - pair.first.time for pair in pairs])
    assert len(pairs) == pytest.approx(600, abs=40)
    assert gaps.min() >= 0.5 - SLACK
    assert gaps.max() <= 6.0 + SLACK
    assert np.mean(gaps < np.sqrt(0.5 * 6)) == pytest.approx(0.5, abs=0.08)
    firsts = np.diff([pair.first.time for pair in pairs if pair.shot == 0])
    assert np.allclose(firsts, 2.0, atol=GRID)


def test_the_pixels_are_those_of_the_frame() -> None:
    for pair in drawn(8.0, 9.0):
        assert pair.first.pixels.item() == pair.first.number
        assert pair.second.pixels.item() == pair.second.number


def test_the_same_pairs_always_and_others_with_another_seed_or_video() -> None:
    def numbers(**given) -> list[tuple[int, int]]:
        return [(pair.first.number, pair.second.number) for pair in drawn(20.0, 20.0, **given)]

    assert numbers() == numbers()
    assert len({str(numbers()), str(numbers(seed=1)), str(numbers(key="other"))}) == 3
    assert numbers(every=1.0) != numbers(every=4.0)


def test_memory_does_not_grow_with_the_length() -> None:
    alive: set[int] = set()
    most = 0

    class Pixels(np.ndarray):
        pass

    def made(number: int) -> np.ndarray:
        nonlocal most
        pixels = np.zeros((2, 2)).view(Pixels)
        alive.add(number)
        weakref.finalize(pixels, alive.discard, number)
        most = max(most, len(alive))
        return pixels

    def many() -> Iterator[tuple[Frame, bool]]:
        for number in range(24 * 120):
            yield Frame(number, number / 24, TINY, (1, 1), lambda number=number: made(number)), number == 0  # type: ignore[misc]

    sampling = Sampling()
    for _ in draw_pairs(many(), "k", sampling):
        pass
    gc.collect()
    assert most <= (sampling.longest + sampling.every) / GRID + 8


def test_a_shot_shorter_than_the_longest_gap_has_pairs_and_wrong_bounds_are_refused() -> None:
    assert len(drawn(1.2)) == 1
    assert drawn(0.6) == []
    with pytest.raises(UsageError, match="exchange them"):
        Sampling(shortest=2.0, longest=1.0)
