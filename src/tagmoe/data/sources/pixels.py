"""Decode pictures that a source must crop or compose, and encode the result in the same format."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Role
from tagmoe.errors import ImageError
from tagmoe.pictures import open_picture

JPEG_QUALITY = 95
"""Quality for pictures that were JPEG before; without chroma subsampling. As PNG, 200,000 pairs would be 300 GB."""


def decoded(picture: Picture, mode: str = "RGB") -> Image.Image:
    """The upright pixels. Raises UnusableRow when the bytes are cut off or damaged."""
    try:
        with open_picture(picture.data) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except ImageError:
        raise UnusableRow("damaged picture") from None


def has_alpha(picture: Picture) -> bool:
    """Whether the header says that pixels may be transparent."""
    with open_picture(picture.data) as image:
        return image.has_transparency_data


def encoded_like(image: Image.Image, like: Picture, role: Role) -> Picture:
    """A JPEG when `like` is one, else a PNG: a lossless picture stays lossless."""
    buffer = io.BytesIO()
    if like.data.startswith(b"\xff\xd8"):
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), image.width, image.height, role)
