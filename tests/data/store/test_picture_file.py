"""A picture's header gives its upright size; what is no usable picture is refused with a fixed short reason."""

from __future__ import annotations

import io
import zlib

import pytest
from PIL import Image

from tagmoe.data.store.record import Picture
from tagmoe.errors import ImageError
from tagmoe.pictures import load_image, read_header


def encoded(kind: str, size=(6, 4), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "gif")]
)
def test_the_header_gives_size_and_extension_and_the_bytes_are_kept(kind, name):
    data = encoded(kind)
    picture = Picture.of(data, "mask")
    assert (picture.width, picture.height, picture.role, picture.data) == (6, 4, "mask", data)
    assert read_header(data).extension == name


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_size_is_that_of_the_upright_picture_as_it_is_loaded(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(kind, exif=exif)
    (tmp_path / "picture").write_bytes(data)
    picture = Picture.of(data)
    assert (picture.width, picture.height) == load_image(tmp_path / "picture").size == (4, 6)


def test_only_the_header_is_read():
    data = encoded("PNG", (300, 200))
    assert Picture.of(data[:60]).width == 300


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty picture"),
        (b"rubbish" * 20, "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (encoded("PNG")[:20], "damaged picture header"),
    ],
)
def test_what_is_no_picture_is_refused(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}$"):
        Picture.of(data)


def test_absurd_sizes_are_refused_from_the_header():
    for side in (8001, 60000):
        data = bytearray(encoded("PNG"))
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        with pytest.raises(ImageError, match=r"^picture of more than 64 megapixels$"):
            Picture.of(bytes(data))
