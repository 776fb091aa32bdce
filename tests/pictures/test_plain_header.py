"""The quick header says what the decoder says, or nothing."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tagmoe.errors import ImageError
from tagmoe.picture_header import plain_header
from tagmoe.pictures import MAX_PIXELS, load_image, open_picture, read_header, upright_size


def made(kind: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def noted(name: str, text: str) -> PngInfo:
    found = PngInfo()
    found.add_itxt(name, text)
    return found


TURNED = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"'
"""As XMP says it; a PNG may hold it in a text."""


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = 6
    return found


PLAIN = {
    "png": made("PNG"),
    "grey png": made("PNG", "L"),
    "palette png": made("PNG", "P"),
    "png with alpha": made("PNG", "RGBA"),
    "png with a text": made("PNG", pnginfo=noted("Software", "a camera")),
    "jpeg": made("JPEG"),
    "progressive": made("JPEG", progressive=True),
    "grey jpeg": made("JPEG", "L"),
}
OTHERS = {
    "turned png": made("PNG", exif=exif()),
    "turned jpeg": made("JPEG", exif=exif()),
    "png turned by xmp": made("PNG", pnginfo=noted("XML:com.adobe.xmp", TURNED)),
    "png with a raw profile": made("PNG", pnginfo=noted("Raw profile type exif", "")),
    "one bit": made("PNG", "1"),
    "cmyk": made("JPEG", "CMYK"),
    "webp": made("WEBP"),
    "empty": b"",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=list(PLAIN))
def test_a_plain_picture_has_the_size_that_the_decoder_gives(data):
    with open_picture(data) as image:
        assert plain_header(data)[:2] == upright_size(image) == (53, 37)


@pytest.mark.parametrize("data", OTHERS.values(), ids=list(OTHERS))
def test_of_any_other_the_decoder_must_say(data):
    assert plain_header(data) is None


def test_a_png_that_xmp_turns_has_its_sides_exchanged():
    data = OTHERS["png turned by xmp"]
    assert read_header(data)[:2] == load_image(data).size == (37, 53)


@pytest.mark.parametrize("data", [PLAIN["png"], PLAIN["jpeg"], OTHERS["turned png"], OTHERS["turned jpeg"]])
def test_a_damaged_header_is_never_read_otherwise(data):
    dice = random.Random(1)
    for _ in range(300):
        cut = bytearray(data[: dice.randint(1, len(data))])
        if dice.random() < 0.7:
            cut[dice.randrange(min(len(cut), 200))] ^= 1 << dice.randrange(8)
        quick = plain_header(bytes(cut))
        if quick is None or quick[0] * quick[1] > MAX_PIXELS:
            continue
        try:
            with open_picture(bytes(cut)) as image:
                assert upright_size(image) == quick[:2]
        except ImageError:
            # Later damage is found by decoding; the header itself is whole.
            assert quick[:2] == read_header(bytes(cut))[:2]
