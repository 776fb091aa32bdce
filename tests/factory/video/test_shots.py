"""Cuts are found, and what only looks like one is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import cv2
import numpy as np
import pytest
from support.made_videos import Clip, dissolved

from tagmoe.factory.video.reading import Frame
from tagmoe.factory.video.shots import AROUND, shots


def frames_of(pictures: Iterable[np.ndarray]) -> Iterator[Frame]:
    for number, picture in enumerate(pictures):
        tiny = cv2.resize(picture, (48, 27), interpolation=cv2.INTER_AREA)
        yield Frame(number, number / 12, tiny, (picture.shape[1], picture.shape[0]), partial(np.copy, picture))


def begins(pictures: Iterable[np.ndarray], **given: bool) -> list[int]:
    return [frame.number for frame, begin in shots(frames_of(pictures), **given) if begin]


def clip(seed: int, camera: str = "still", **given: float) -> list[np.ndarray]:
    return list(Clip(seed, camera, "away", **{"seconds": 2.0, **given}).frames())  # type: ignore[arg-type]


def test_a_cut_is_found_where_it_is() -> None:
    assert begins([*clip(1), *clip(2, "pan"), *clip(3, "zoom")]) == [0, 24, 48]
    assert begins([*clip(1), *clip(2)[:5], *clip(3)[:5]]) == [0, 24, 29], "also in a quick montage"
    assert begins([*clip(1), *clip(2)], cuts=False) == [0]


@pytest.mark.parametrize("camera", ["shake", "pan", "zoom", "turn", "all"])
def test_a_camera_that_moves_fast_is_no_cut(camera) -> None:
    assert begins(clip(4, camera, speed=4.0)) == [0]


def test_a_flash_is_no_cut_also_while_the_camera_moves() -> None:
    pictures = clip(5, "pan")
    for number in (10, 11):
        pictures[number] = np.clip(pictures[number].astype(int) * 2 + 60, 0, 255).astype(np.uint8)
    assert begins(pictures) == [0]


def test_black_frames_belong_to_no_shot_and_part_two() -> None:
    black = [np.full_like(clip(6)[0], 6)] * 5
    found = list(shots(frames_of([*black, *clip(6), *black, *clip(6)])))
    assert [frame.number for frame, begin in found if begin] == [5, 34]
    assert {frame.number for frame, _ in found} == {*range(5, 29), *range(34, 58)}


def test_another_size_parts_two_shots_also_where_cuts_are_not_looked_for() -> None:
    pictures = clip(7)
    assert begins([*pictures, *(picture[:96] for picture in pictures)], cuts=False) == [0, 24]


def test_a_dissolve_is_not_found_as_is_said() -> None:
    """It is the filter `scene` that drops the pairs across it."""
    assert len(begins(dissolved(clip(8), clip(9), 12))) == 1


def test_few_frames_are_in_memory_ahead() -> None:
    given: list[int] = []

    def counted() -> Iterator[Frame]:
        for frame in frames_of(clip(1)):
            given.append(frame.number)
            yield frame

    for frame, _ in shots(counted()):
        assert given[-1] - frame.number <= AROUND


def test_short_videos_and_none() -> None:
    assert begins([]) == []
    assert begins(clip(1)[:1]) == [0]
    assert begins([clip(1)[0], clip(2)[0]]) == [0, 1]
