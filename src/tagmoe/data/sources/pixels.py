"""Pictures that a source must cut or compose: decoded once, and encoded again in the kind they had."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from tagmoe.data.sources.skipped import DAMAGED_PICTURE
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Role
from tagmoe.errors import ImageError
from tagmoe.pictures import open_picture

JPEG_QUALITY = 95
"""Of pictures that were JPEG already, with full colour resolution: lossless, 200,000 pairs would be 300 GB."""


def decoded(picture: Picture, mode: str = "RGB") -> Image.Image:
    """The upright pixels. Raises UnusableRow when the bytes are cut off or damaged."""
    try:
        with open_picture(picture.data) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except ImageError:
        raise UnusableRow(DAMAGED_PICTURE) from None


def has_alpha(picture: Picture) -> bool:
    """Whether some pixels may be transparent, from the header."""
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
