"""Pictures for questions: untouched where they fit, else upright, on white, under the cap."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.made_pictures import encoded, scene

from tagmoe.errors import ImageError, UsageError
from tagmoe.vlm.pictures import capped, fitting_size

QUARTERS = np.zeros((200, 320, 3), np.uint8)
QUARTERS[:100, :160] = (255, 0, 0)
"""Red at the top left, black elsewhere: every turn can be told."""


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def turned(orientation: int, kind: str = "JPEG", pixels: np.ndarray = QUARTERS) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, kind, exif=exif.tobytes())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_fits_is_not_touched_and_not_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(96, 128), kind)

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    assert capped(data, 96 * 128) is data


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_what_servers_do_not_read_is_encoded_anew(kind: str) -> None:
    shown = opened(capped(encoded(scene(64, 80), kind), 1_000_000))
    assert shown.format == "PNG"
    assert shown.size == (80, 64)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_is_shown_upright(orientation: int) -> None:
    shown = opened(capped(turned(orientation), 20_000)).convert("RGB")
    lying = orientation >= 5
    assert (shown.width < shown.height) == lying
    assert shown.getexif().get(0x0112, 1) == 1
    # where the top left of the stored pixels belongs
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    place = (shown.width * (3 if right else 1) // 4, shown.height * (3 if bottom else 1) // 4)
    red = np.asarray(shown.getpixel(place))
    assert red[0] > 200
    assert red[1] < 60
    other = shown.getpixel((shown.width - 1 - place[0], shown.height - 1 - place[1]))
    assert max(other) < 60


@pytest.mark.slow
def test_a_large_picture_is_scaled_to_the_cap() -> None:
    shown = opened(capped(encoded(scene(600, 900)), 150_000))
    assert shown.format == "JPEG"
    assert 0.98 * 150_000 < shown.width * shown.height <= 150_000
    assert shown.width / shown.height == pytest.approx(1.5, rel=0.01)
    whole = Image.fromarray(scene(600, 900)).resize(shown.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(shown.convert("L"), float) - np.asarray(whole.convert("L"), float)).mean() < 5


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 4_000_000))
def test_the_size_keeps_the_cap_and_never_exchanges_sides(width: int, height: int, pixels: int) -> None:
    wide, high = fitting_size(width, height, pixels)
    assert 1 <= wide <= width
    assert 1 <= high <= height
    assert wide * high <= pixels
    assert (wide - high) * (width - height) >= 0
    if width * height <= pixels:
        assert (wide, high) == (width, height)


def test_transparency_lies_on_white_and_16_bit_is_scaled() -> None:
    clear = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    assert opened(capped(encoded(clear, "PNG"), 10_000)).convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    deep = Image.fromarray(np.full((400, 400), 128 * 257, np.uint16))
    assert opened(capped(encoded(deep, "PNG"), 10_000)).convert("RGB").getpixel((5, 5)) == (128, 128, 128)


def test_a_broken_picture_is_an_image_error() -> None:
    for data in (b"", b"no picture", encoded(scene())[:400], encoded(scene(300, 300), "PNG")[:3000]):
        with pytest.raises(ImageError):
            capped(data, 1000)
    with pytest.raises(UsageError, match="0 pixels"):
        capped(encoded(scene()), 0)
