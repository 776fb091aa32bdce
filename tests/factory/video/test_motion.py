"""What the camera did and what the subject did, beside the truth of made frames."""

from __future__ import annotations

import numpy as np
import pytest
from support.made_videos import Clip, mosaic

from tagmoe.factory.video.checks import Limits, figures_of, kind_of
from tagmoe.factory.video.motion import measure
from tagmoe.factory.video.pairs import Pair, Still


def both(clip: Clip, first: int = 6, second: int = 24):
    return measure(clip.frame(first), clip.frame(second)), clip.truth(first, second)


@pytest.mark.parametrize("camera", ["still", "shake", "pan", "zoom", "turn", "all"])
@pytest.mark.parametrize("subject", ["none", "away"])
def test_the_camera_is_told_from_the_subject(camera, subject) -> None:
    found, truth = both(Clip(704, camera, subject))
    assert found.camera == pytest.approx(truth.camera, abs=0.004)
    assert found.overlap == pytest.approx(truth.overlap, abs=0.05)
    if subject == "none":
        assert found.changed < 0.004
    else:
        assert truth.inside
        assert found.changed == pytest.approx(2 * truth.area, abs=0.06)
        assert found.subject == pytest.approx(truth.subject, rel=0.3)
    assert found.aligned > 0.8


def test_a_large_thing_that_moves_is_not_taken_for_the_ground() -> None:
    """It has more structure than the plain ground that it moves on."""
    ground = np.full((960, 1344, 3), 170, np.uint8)
    for place, side in enumerate((97, 131, 61)):
        ground[40 * place :: 2 * side, :] = 90
        ground[:, 30 * place :: 3 * side] = 90
    found, truth = both(Clip(3, "still", "away", size=110, ground=ground))
    assert truth.subject > 0.05
    assert found.camera == 0
    assert found.subject == pytest.approx(truth.subject, rel=0.5)


def test_another_thing_and_none_share_fewer_colours_than_one_that_moved() -> None:
    same = [both(Clip(seed, "still", "away"), 10, 26)[0].same for seed in (0, 2)]
    other = [both(Clip(seed, "still", "replaced"), 20, 36)[0].same for seed in (0, 2)]
    gone = [both(Clip(seed, "still", "gone"), 20, 36)[0].same for seed in (0, 2)]
    assert min(same) > max(*other, *gone)


def test_light_that_changed_is_explained_by_no_motion() -> None:
    frame = Clip(1).frame(0)
    found = measure(frame, (frame * 0.55).astype(np.uint8))
    assert found.unexplained > 0.4
    assert found.camera == 0


def test_near_and_far_move_apart_under_a_camera_and_are_no_subject() -> None:
    """Three planes all over the picture, which move the more the nearer they are: depth. One thing that moves: none."""
    grounds = [mosaic(seed) for seed in (21, 22, 23)]
    pictures = []
    for shift in (0, 1):
        picture = grounds[0][300:492, 300 + 4 * shift : 620 + 4 * shift].copy()
        for number, ground in enumerate(grounds[1:], 1):
            for left in (40, 200):
                start = left - 8 * number * shift
                picture[64 * number : 64 * number + 56, start : start + 90] = ground[400:456, 400:490]
        pictures.append(picture)
    assert measure(pictures[0], pictures[1]).depth > 0.5
    assert both(Clip(7, "pan", "away"))[0].depth < 0.5


def test_frames_without_structure_and_tiny_ones() -> None:
    flat = np.full((40, 60, 3), 90, np.uint8)
    found = measure(flat, flat)
    assert (found.camera, found.changed, found.aligned) == (0, 0, 1)
    assert measure(flat, flat + 100).aligned == 0
    assert measure(flat[:9, :9], flat[:9, :9]).overlap == 1


def test_kinds_of_clean_pairs() -> None:
    def kind(clip: Clip, second: int = 24) -> str:
        stills = [Still(number, number / 12, clip.frame(number)) for number in (6, second)]
        figures = figures_of(Pair(0, *stills)) | {"repeat": 255.0}
        found = kind_of(figures)
        assert Limits.of().broken(figures, found) == []
        return found

    assert kind(Clip(2, "pan", "none")) == "view"
    assert kind(Clip(2, "turn", "still")) == "view"
    assert kind(Clip(4, "still", "swing", size=110)) == "pose"
    assert kind(Clip(6, "still", "away"), 40) == "action"
