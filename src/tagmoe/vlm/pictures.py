"""A picture as a model sees it: upright, and under a cap of pixels, because a question costs by its pixels."""

from __future__ import annotations

import io
import math

from PIL import Image

from tagmoe.errors import UsageError
from tagmoe.pictures import is_plain, load_image, read_header
from tagmoe.sentences import counted

SHOWN = ("png", "jpg", "webp")
"""The formats that every server reads."""
JPEG_QUALITY = 90
SMALL_PIXELS = 128 * 128
"""Up to this size a picture is encoded as PNG: exact, and not much larger."""


def capped(data: bytes, pixels: int) -> bytes:
    """PNG, JPEG or WebP bytes of an encoded picture, upright and with at most `pixels` pixels.

    Plain pictures that already fit come back unchanged, and only their header is read. Others are decoded (the first
    frame, on white, in sRGB), scaled down with their aspect kept, and encoded as JPEG, or as PNG when small. Raises
    ImageError for a picture that cannot be read, UsageError for a cap below one pixel.
    """
    if pixels < 1:
        raise UsageError(f"The cap is {counted(pixels, 'pixel')}; give at least 1.")
    header = read_header(data)
    if header.extension in SHOWN and header.width * header.height <= pixels and is_plain(data):
        return data
    size = fitting_size(header.width, header.height, pixels)
    return encoded(load_image(data, draft=size), size, Image.Resampling.LANCZOS)


def encoded(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> bytes:
    """A picture scaled to a size (width, height): a small one as lossless PNG, others as JPEG."""
    shown = image if image.size == size else image.resize(size, resampling)
    buffer = io.BytesIO()
    if size[0] * size[1] <= SMALL_PIXELS:
        shown.save(buffer, "PNG")
    else:
        shown.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def fitting_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """The largest (width, height) of this aspect with at most `pixels` pixels, never larger than it is."""
    if width * height <= pixels:
        return width, height
    scale = math.sqrt(pixels / (width * height))
    # each side has at least one pixel, and the other side then takes what the cap leaves
    wide = min(max(1, int(width * scale)), pixels)
    high = min(max(1, int(height * scale)), pixels // wide)
    return min(wide, pixels // high), high
