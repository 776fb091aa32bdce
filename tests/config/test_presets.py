"""The release's settings: its 33 sizes, its choice among them, and what a model that is too small says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.errors import UsageError
from tagmoe.weights.presets import PRESETS, RELEASE, Preset, find_preset

# Copied from the facts of the release; the other 16 are the transposes of all but the square.
UPRIGHT = """512,2048 512,1984 512,1920 512,1856 512,1792 512,1728 512,1664 512,1600 512,1536 576,1472 640,1408 704,1344
768,1280 832,1216 896,1152 960,1088 1024,1024"""
LISTED = {tuple(int(side) for side in pair.split(",")) for pair in UPRIGHT.split()}
SIDES = st.integers(1, 20_000)


def test_the_33_sizes_steps_and_guidance_are_the_release_s() -> None:
    assert set(RELEASE.sizes) == LISTED | {(height, width) for width, height in LISTED}
    assert len(RELEASE.sizes) == 33
    assert (RELEASE.steps, RELEASE.cfg, RELEASE.square) == (30, 4.0, (1024, 1024))
    assert all(width % 64 == 0 and height % 64 == 0 for width, height in RELEASE.sizes)


@pytest.mark.parametrize("size", sorted(RELEASE.sizes))
def test_a_picture_of_a_listed_aspect_gets_that_size(size: tuple[int, int]) -> None:
    width, height = size
    assert RELEASE.nearest(width, height) == size
    assert RELEASE.nearest(3 * width, 3 * height) == size


@given(SIDES, SIDES)
def test_no_other_size_is_nearer(width: int, height: int) -> None:
    chosen = RELEASE.nearest(width, height)
    assert chosen in RELEASE.sizes
    distance = {size: abs(width / height - size[0] / size[1]) for size in RELEASE.sizes}
    assert distance[chosen] == min(distance.values())


@given(SIDES, SIDES, st.integers(1, 50))
def test_only_the_aspect_counts(width: int, height: int, scale: int) -> None:
    assert RELEASE.nearest(width, height) == RELEASE.nearest(scale * width, scale * height)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000))
def test_a_wider_picture_never_gets_a_narrower_output(first: int, second: int, height: int) -> None:
    narrow, wide = sorted((first, second))
    sizes = [RELEASE.nearest(width, height) for width in (narrow, wide)]
    assert sizes[0][0] / sizes[0][1] <= sizes[1][0] / sizes[1][1]


def test_of_two_equally_near_sizes_the_narrower_one() -> None:
    preset = Preset("two", 1, 1.0, ((300, 200), (100, 200)), (200, 200))
    assert preset.nearest(200, 200) == (100, 200)


def test_arguments_are_those_of_a_pipeline_call() -> None:
    assert RELEASE.arguments() == {
        "num_inference_steps": 30, "true_cfg_scale": 4.0, "width": 1024, "height": 1024,
    }  # fmt: skip
    assert RELEASE.arguments((4000, 3000))["width"] == 1152


@pytest.mark.parametrize("reference", [None, (100, 100), (10, 9000)])
def test_a_model_that_is_too_small_is_named(reference: tuple[int, int] | None) -> None:
    with pytest.raises(UsageError, match=r"'release' draws \d+x\d+ here, but this model draws sides of 256 at most"):
        RELEASE.size(reference, 256)
    assert max(RELEASE.size(reference, 4096)) <= 2048


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_picture_without_a_side_has_no_aspect(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="no aspect"):
        RELEASE.nearest(*size)


def test_an_unknown_preset_is_named() -> None:
    assert find_preset("release") is PRESETS["release"] is RELEASE
    with pytest.raises(UsageError, match="'authors'; choose one of release"):
        find_preset("authors")
