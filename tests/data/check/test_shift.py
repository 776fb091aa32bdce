"""A shift is measured to a pixel under noise and edits, and an edit alone is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.made_pictures import encoded, picture, scene, with_patch

from tagmoe.data.check.checks import picture_findings, shift_of
from tagmoe.data.check.shift import measure_shift

MARGIN = 12


def view(pixels: np.ndarray, quality: int = 85):
    made = picture(encoded(pixels, quality=quality))
    return picture_findings({"role": "source", "data": made.data, "width": made.width, "height": made.height})[1]


def window(pixels: np.ndarray, right: int = 0, down: int = 0) -> np.ndarray:
    height, width = (side - 2 * MARGIN for side in pixels.shape[:2])
    return pixels[MARGIN - down :, MARGIN - right :][:height, :width]


def noisy(pixels: np.ndarray, seed: int, sigma: float = 6.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("pixels", range(9))
@pytest.mark.parametrize("edited", [False, True])
def test_known_shifts_are_found_within_a_pixel(pixels, edited):
    for seed, (right, down) in enumerate([(pixels, 0), (0, -pixels), (-pixels, pixels // 2)]):
        whole = scene(512 + 2 * MARGIN, 384 + 2 * MARGIN, seed)
        source, target = window(whole), noisy(window(whole, right, down), seed)
        if edited:
            target = with_patch(target, seed, 0.4)
        found = shift_of(view(source), view(target, 75))
        assert found is not None
        assert np.hypot(found[0] - right, found[1] - down) < 1


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_shift_is_in_pixels_of_the_picture_at_any_size(factor):
    whole = Image.fromarray(scene(520, 520, 3)).resize((int(520 * factor),) * 2)
    whole = np.asarray(whole)
    found = shift_of(view(window(whole)), view(window(whole, 5, -3)))
    assert found == pytest.approx((5, -3), abs=1)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("seed", range(12))
def test_a_local_edit_is_no_shift(seed):
    pixels = scene(seed=seed, height=256, width=320)
    found = shift_of(view(pixels), view(noisy(with_patch(pixels, seed, 0.5), seed), 70))
    assert found is None or np.hypot(*found) < 0.75


def test_brightness_does_not_hide_a_shift():
    whole = scene(300, 300, 1)
    target = (window(whole, 4, 4) * 0.5 + 60).astype(np.uint8)
    assert shift_of(view(window(whole)), view(target)) == pytest.approx((4, 4), abs=1)


def test_what_is_not_alike_has_no_shift():
    assert shift_of(view(scene(seed=1)), view(scene(seed=2))) is None


def test_one_thing_that_moves_on_a_plain_ground_is_no_shift():
    pictures = []
    for left in (100, 106):
        pixels = np.full((256, 256), 250, np.float32)
        pixels[90:130, left : left + 40] = scene(40, 40, 1)[:, :, 0]
        pictures.append(pixels)
    assert measure_shift(*pictures) is None


@pytest.mark.parametrize("shape", [(32, 32), (33, 250), (64, 64)])
def test_plain_pictures_have_no_shift(shape):
    assert measure_shift(np.full(shape, 7.0), np.full(shape, 7.0)) is None
