"""Decode pictures that a source must crop or compose, and encode the result in the same format."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Role
from tagmoe.errors import ImageError
from tagmoe.pictures import load_image, load_mask, open_picture, upright_picture

JPEG_QUALITY = 95
"""Quality for pictures that were JPEG before; without chroma subsampling. As PNG, 200,000 pairs would be 300 GB."""


def decoded(picture: Picture) -> Image.Image:
    """The upright pixels: of a mask by the rules of `load_mask` (L), of others by those of `load_image` (RGB).

    Raises UnusableRow when the bytes are cut off or damaged.
    """
    try:
        return load_mask(picture.data) if picture.role == "mask" else load_image(picture.data)
    except ImageError:
        raise UnusableRow("damaged picture") from None


def holes(picture: Picture) -> Image.Image | None:
    """Where a picture is transparent, upright (L, 255 there); None where it has no transparency.

    Raises UnusableRow when the bytes are cut off or damaged.
    """
    try:
        with open_picture(picture.data) as image:
            if not image.has_transparency_data:
                return None
            return ImageOps.invert(upright_picture(image).convert("RGBA").getchannel("A"))
    except ImageError:
        raise UnusableRow("damaged picture") from None


def encoded_like(image: Image.Image, like: Picture, role: Role) -> Picture:
    """A JPEG when `like` is one, else a PNG: a lossless picture stays lossless."""
    buffer = io.BytesIO()
    if like.data.startswith(b"\xff\xd8"):
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), image.width, image.height, role)
