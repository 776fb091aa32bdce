"""Colours of an embedded profile are converted to sRGB, and every format's own tag turns a picture, in each reader."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from tagmoe.errors import ImageError
from tagmoe.pictures import load_image, read_header

D50 = (0.9642, 1.0, 0.8249)
# Primaries adapted to D50, as ICC profiles state them (columns r, g, b in XYZ), and the exponent of the curve.
SPACES = {
    "Display P3": (((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), None),
    "Adobe RGB": (((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 2.19921875),
}
SRGB = np.array(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))).T


def fixed(value: float) -> bytes:
    return round(value * 65536).to_bytes(4, "big", signed=True)


def tag(kind: bytes, content: bytes) -> bytes:
    return kind + bytes(4) + content + bytes(-len(content) % 4)


def curve(exponent: float | None) -> bytes:
    if exponent is None:  # sRGB's own curve
        steps = np.linspace(0, 1, 1024)
        linear = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
        table = np.round(linear * 65535).astype(">u2").tobytes()
        return tag(b"curv", (1024).to_bytes(4, "big") + table)
    return tag(b"curv", (1).to_bytes(4, "big") + round(exponent * 256).to_bytes(2, "big"))


def profile(space: str) -> bytes:
    """A minimal ICC profile (version 2, matrix and curves) made of the space's definition."""
    primaries, exponent = SPACES[space]
    tags = {b"desc": tag(b"desc", (len(space) + 1).to_bytes(4, "big") + space.encode() + bytes(80)),
            b"wtpt": tag(b"XYZ ", b"".join(map(fixed, D50)))}  # fmt: skip
    for name, column in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[name + b"XYZ"] = tag(b"XYZ ", b"".join(map(fixed, column)))
        tags[name + b"TRC"] = curve(exponent)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + (start + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    size = start + len(body)
    head = size.to_bytes(4, "big") + bytes(4) + b"\x02\x10\x00\x00" + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(map(fixed, D50))
    return head.ljust(128, b"\0") + len(tags).to_bytes(4, "big") + table + body


def expected(colour: tuple[int, int, int], space: str) -> np.ndarray:
    """The definition: decode, one matrix, clip, encode."""
    primaries, exponent = SPACES[space]
    value = np.array(colour) / 255
    curved = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = curved if exponent is None else value**exponent
    there = np.linalg.solve(SRGB, np.array(primaries).T @ linear).clip(0, 1)
    return 255 * np.where(there <= 0.0031308, 12.92 * there, 1.055 * there ** (1 / 2.4) - 0.055)


COLOURS = [(200, 0, 0), (0, 180, 0), (30, 60, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0), (240, 200, 160)]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    image.save(buffer, kind, **{**lossless.get(kind, {}), **options})
    return buffer.getvalue()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("space", SPACES)
def test_the_colours_of_a_profile_become_srgb(space: str, kind: str) -> None:
    for colour in COLOURS:
        data = encoded(Image.new("RGB", (16, 16), colour), kind, icc_profile=profile(space))
        found = np.asarray(load_image(data))[8, 8]
        assert np.abs(found - expected(colour, space)).max() <= (2.5 if kind in ("PNG", "TIFF", "WEBP") else 5)


def test_the_red_of_display_p3() -> None:
    data = encoded(Image.new("RGB", (4, 4), (200, 0, 0)), "PNG", icc_profile=profile("Display P3"))
    assert abs(int(np.asarray(load_image(data))[0, 0, 0]) - 219) <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "L", "LA"])
def test_each_mode_is_converted_and_transparency_stays(mode: str) -> None:
    base = Image.new("RGBA", (8, 8), (200, 200, 200, 255))
    base.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image = base.convert("P" if mode == "PA" else mode)
    if mode == "PA":
        image = base.convert("RGBA").quantize().convert("PA")
    image.info["icc_profile"] = profile("Adobe RGB")
    found = np.asarray(load_image(image))
    assert np.abs(found[0, 7] - expected((200, 200, 200), "Adobe RGB")).max() <= 2.5
    if mode in ("RGBA", "LA"):
        assert (found[0, 0] == 255).all()


def test_srgb_itself_changes_no_bit() -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (own, None):
        data = encoded(Image.fromarray(values), "PNG", **({"icc_profile": icc} if icc else {}))
        assert np.array_equal(np.asarray(load_image(data)), values)


@pytest.mark.parametrize("damage", [b"", b"no profile", profile("Adobe RGB")[:200]])
def test_a_damaged_profile_does_not_cost_the_picture(damage: bytes) -> None:
    image = Image.new("RGB", (4, 4), (200, 10, 10))
    image.info["icc_profile"] = damage
    assert np.asarray(load_image(image))[0, 0].tolist() == [200, 10, 10]


TURNS: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: ImageOps.flip,
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_header_and_pixels_agree_on_what_is_upright(kind: str, turn: int) -> None:
    values = np.full((32, 48, 3), 255, np.uint8)
    values[:16, :24] = (255, 0, 0)
    image, exif = Image.fromarray(values), Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = encoded(image, kind, exif=exif)
    wanted, found = TURNS[turn](image), load_image(data)
    assert found.size == wanted.size == read_header(data)[:2]
    assert np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 6


def test_a_heic_picture_is_one_sentence(tmp_path: Path) -> None:
    data = b"\0\0\0\x18ftypheic" + bytes(64)
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(ImageError, match="a picture in HEIC, which cannot be read here; convert it to PNG or JPEG"):
        load_image(tmp_path / "a.heic")
    with pytest.raises(ImageError, match=r"^picture in HEIC$"):
        read_header(data)
