"""The judge of PhotoWorld believes the true target, and none of the outputs that only look like success."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.cut_outs import folders

from tagmoe.errors import ImageError
from tagmoe.photoworld import TASKS, PhotoWorld, judge
from tagmoe.photoworld.attacks import attacks


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> PhotoWorld:
    return PhotoWorld(*folders(tmp_path_factory.mktemp("roots")), size=64)


@pytest.mark.parametrize("task", TASKS)
def test_the_target_succeeds_and_attacks_do_not(world, task: str) -> None:
    for index in range(3):
        case, other = (world.sample(seed, index, split="test", task=task) for seed in (3, 4))
        told = judge(case, case.target)
        assert (told.success, told.edit_done, told.reasons) == (True, True, ())
        assert (told.way, told.rest) == (pytest.approx(1.0), 0.0)
        believed = [name for name, output in attacks(case, other).items() if judge(case, output).success]
        assert believed == []


@pytest.mark.parametrize("task", TASKS)
def test_what_an_autoencoder_loses_is_forgiven(world, task: str) -> None:
    noise = np.random.default_rng(0).normal(0, 6.4, (64, 64, 3))  # 32 dB
    case = world.sample(8, 0, split="test", task=task)
    assert judge(case, np.clip(case.target + noise, 0, 255).astype(np.uint8)).success


def test_the_rest_is_judged_apart_from_the_edit(world) -> None:
    case = world.sample(3, 0, task="remove")
    damaged = case.target.copy()
    damaged[~case.mask] = 255 - damaged[~case.mask]
    told = judge(case, damaged)
    assert (told.success, told.edit_done) == (False, True)
    assert told.unchanged is not None
    assert told.unchanged < 0.3
    assert "rest" in " ".join(told.reasons)


def test_outputs_of_other_sizes_are_scaled_and_oblong_ones_refused(world) -> None:
    case = world.sample(3, 1, task="night")
    large = Image.fromarray(case.target).resize((128, 128), Image.Resampling.BICUBIC)
    assert judge(case, large).success
    with pytest.raises(ImageError, match="64x32"):
        judge(case, np.zeros((32, 64, 3), np.uint8))
