"""PhotoWorld: pairs are pure functions, masks and targets are exact, and no root is in two splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cut_outs import cut_out, folders

from tagmoe.errors import DataError, UsageError
from tagmoe.photoworld import TASKS, PhotoWorld
from tagmoe.photoworld.edits import LEAST_CHANGE
from tagmoe.photoworld.roots import read_roots
from tagmoe.photoworld.scene import Placed, Stage, box_of


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    return folders(tmp_path_factory.mktemp("roots"))


@pytest.fixture(scope="module")
def world(made) -> PhotoWorld:
    return PhotoWorld(*made, size=64)


def test_a_pair_is_a_pure_function_of_seed_and_index(world, made) -> None:
    other = PhotoWorld(*made, size=64)
    for index in range(12):
        first, second = world.sample(5, index), other.sample(5, index)
        assert first.instruction == second.instruction
        assert np.array_equal(first.target, second.target)
        assert all(map(np.array_equal, first.sources, second.sources))
    assert {world.sample(5, index).instruction for index in range(12)} != {
        world.sample(6, index).instruction for index in range(12)
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_masks_targets_and_tags_are_exact(world, task: str, split: str) -> None:
    for index in range(4):
        case = world.sample(1, index, split=split, task=task)
        case.tags.validate()
        changed = (case.before != case.target).any(axis=2)
        assert not (changed & ~case.mask).any(), "a pixel changes outside the mask"
        least = LEAST_CHANGE / 2 if task == "enlarge" else LEAST_CHANGE
        step = (case.before[case.mask].astype(float) - case.target[case.mask]) ** 2
        assert step.mean() ** 0.5 >= least
        assert {picture.shape for picture in (*case.sources, case.target)} == {(64, 64, 3)}
        assert len(case.roles) == len(case.sources)
        if task in ("add", "remove", "replace", "move", "subject"):
            assert 0 < case.mask.mean() < 0.9
        if case.inverse is not None:
            case.inverse.tags.validate()
            assert case.inverse.target is case.before
            assert np.array_equal(case.inverse.sources[0], case.target)
    assert "{" not in case.instruction


def test_removal_is_addition_backwards(world) -> None:
    case = world.sample(2, 0, task="add")
    assert case.inverse is not None
    assert (case.inverse.task, case.inverse.tags) == ("remove", TASKS["remove"].tags)
    lossy = world.sample(2, 0, task="grey")
    assert lossy.inverse is None, "the colours are gone"


def test_every_root_is_in_one_split_and_look_alikes_stay_together(made, tmp_path) -> None:
    grounds, cutouts = (tmp_path / name for name in ("grounds", "cutouts"))
    shutil.copytree(made[0], grounds)
    shutil.copytree(made[1], cutouts)
    for number in range(8):
        # the same thing smaller, and mirrored; another thing with the same caption
        cut_out(number).resize((60, 60)).save(cutouts / f"small_{number}.png")
        cut_out(number).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(cutouts / f"mirror_{number}.png")
        for kind in ("small", "mirror"):
            (cutouts / f"{kind}_{number}.txt").write_text(f"{kind} thing {'abcdefgh'[number]}")
    cut_out(11).save(cutouts / "named.png")
    (cutouts / "named.txt").write_text("red ball")
    train, test = read_roots(grounds, cutouts, 64, 0.3)
    for one, other in ((train.cutouts, test.cutouts), (train.grounds, test.grounds)):
        assert one
        assert other
        assert {root.group for root in one}.isdisjoint(root.group for root in other)
    groups = {root.name: root.group for root in (*train.cutouts, *test.cutouts)}
    for number in range(8):
        assert groups[f"thing_{number}.png"] == groups[f"small_{number}.png"] == groups[f"mirror_{number}.png"]
    assert groups["named.png"] == groups["thing_1.png"]
    assert len(set(groups.values())) == 8


def test_things_without_captions_are_told_apart_by_their_looks(tmp_path) -> None:
    """Files named product_1, product_2 are no variants of one product."""
    grounds, cutouts = folders(tmp_path)
    for number, file in enumerate(sorted(cutouts.glob("*.png"))):
        file.with_suffix(".txt").unlink()
        file.rename(cutouts / f"product_{number}.png")
    world = PhotoWorld(grounds, cutouts, size=64)
    assert len({one.group for roots in world.roots.values() for one in roots.cutouts}) == 8
    assert {one.noun for one in world.cutouts("train")} == {"product"}
    world.sample(0, 0, task="replace")


def test_captions_become_phrases(world) -> None:
    found = {one.name: one.phrase for roots in world.roots.values() for one in roots.cutouts}
    assert [found[f"thing_{number}.png"] for number in range(8)] == [
        "an Apple", "a red ball", "Shoes", "an old lamp", "the Moon", "a Cup", "a chair", "a boat",
    ]  # fmt: skip


def test_things_stand_below_the_horizon_and_shrink_with_distance(world) -> None:
    thing = world.cutouts("train")[0]
    stage = Stage("", np.zeros((64, 64, 3), np.uint8), 28)
    near, far = (box_of(Placed(thing, "left", near), stage) for near in (True, False))
    assert near[3] > far[3], "farther is smaller"
    assert 28 < far[1] + far[3] < near[1] + near[3] <= 64


def test_wrong_requests_are_refused(world, made) -> None:
    with pytest.raises(UsageError, match=r"Unknown PhotoWorld task fly\. Allowed are: add"):
        world.sample(0, 0, task="fly")
    with pytest.raises(UsageError, match="must not be negative"):
        world.sample(0, -1)
    with pytest.raises(UsageError, match="multiple of 8 from 32 to 1024"):
        PhotoWorld(*made, size=65)
    with pytest.raises(UsageError, match='no split "test" here'):
        PhotoWorld(*made, size=64, held_out=0).sample(0, 0, split="test")


def test_pictures_without_colour_give_no_pair_that_nobody_sees(tmp_path) -> None:
    """Of grey pictures "everything but the thing becomes grey" changes nothing: it is refused, not written."""
    grounds, cutouts = folders(tmp_path)
    for file in grounds.iterdir():
        Image.open(file).convert("L").convert("RGB").save(file)
    for file in cutouts.glob("*.png"):
        Image.open(file).convert("LA").convert("RGBA").save(file)
    with pytest.raises(UsageError, match="'grey' in 64 draws"):
        PhotoWorld(grounds, cutouts, size=64).sample(0, 0, task="grey")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("opaque", "hardly any transparent pixel"),
        ("no alpha", "has no alpha channel"),
        ("empty", "hardly any opaque pixel"),
        ("broken", "cannot be used"),
        ("small ground", "smaller than the pictures of 64"),
        ("few", "different cut-outs, too few: give at least 4, as 2 of them are held out"),
        ("copies", r"has 3 different cut-outs \(5 pictures, look-alikes counted once\)"),
        ("none", "has no pictures"),
    ],
)
def test_unusable_folders_are_refused_in_a_sentence(tmp_path, spoil: str, sentence: str) -> None:
    few = spoil in ("few", "copies")
    grounds, cutouts = folders(tmp_path, grounds=4, cutouts=3 if few else 4)
    file = cutouts / "thing_0.png"
    if spoil == "opaque":
        cut_out(0).convert("RGB").convert("RGBA").save(file)
    elif spoil == "no alpha":
        cut_out(0).convert("RGB").save(file)
    elif spoil == "empty":
        Image.new("RGBA", (40, 40)).save(file)
    elif spoil == "broken":
        file.write_bytes(file.read_bytes()[:900])
    elif spoil == "small ground":
        Image.new("RGB", (200, 40)).save(grounds / "low.png")
    elif spoil == "copies":
        for number in (5, 6):
            shutil.copy(file, cutouts / f"copy_{number}.png")
    elif spoil == "none":
        for one in list(cutouts.iterdir()):
            one.unlink()
    with pytest.raises(DataError, match=sentence):
        read_roots(grounds, cutouts, 64, 0.2)
