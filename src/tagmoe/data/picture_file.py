"""Encoded pictures as a source has them: the header is read for the size, the bytes are kept as they are.

Only `tagmoe data validate` and encoding decode pixels: an import of millions of rows must not, and what is stored is
what was published, bit by bit.
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from tagmoe.data.record import Picture, Role
from tagmoe.errors import ImageError

# As `tagmoe.images`, which lies above the data and needs torch: decoders that run in this process, and its limit.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif"}
_LYING = (5, 6, 7, 8)
"""Values of the EXIF orientation that exchange width and height."""
_TURNED = range(2, 9)


def read_picture(data: bytes, role: Role = "source") -> Picture:
    """A Picture of these bytes with its upright size in pixels, from the header.

    Raises ImageError for no bytes, for what is no picture, and for more than 64 megapixels. Its message is a short
    fixed text, to be counted as the reason why a row was skipped (`Row.skipped`).
    """
    header = read_header(data)
    return Picture(data=data, width=header.width, height=header.height, role=role)


def extension(data: bytes) -> str:
    """The usual extension of a file with these bytes, without a dot. Raises ImageError as `read_picture` does."""
    return read_header(data).extension


class Header(NamedTuple):
    """width, height: upright, in pixels. upright: whether the pixels are stored that way."""

    width: int
    height: int
    extension: str
    upright: bool


def read_header(data: bytes) -> Header:
    """What the header says, without decoding a pixel. Raises ImageError as `read_picture` does."""
    if not data:
        raise ImageError("empty picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, where the limit below is stricter, and of damaged EXIF.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                kind = _EXTENSIONS[image.format or ""]
                orientation = _orientation(image)
    except Image.DecompressionBombError:
        raise ImageError("picture of more than 64 megapixels") from None
    except UnidentifiedImageError:
        raise ImageError("no picture") from None
    except Exception:
        # A decoder may fail in any way at all on bytes that somebody made to that end.
        raise ImageError("damaged picture header") from None
    if width < 1 or height < 1:
        raise ImageError("picture without pixels")
    if width * height > MAX_PIXELS:
        raise ImageError("picture of more than 64 megapixels")
    if orientation in _LYING:
        width, height = height, width
    return Header(width, height, kind, upright=orientation not in _TURNED)


def _orientation(image: Image.Image) -> int:
    try:
        # The base class: that of PNG would decode the whole picture to find EXIF behind it.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
