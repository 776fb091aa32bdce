"""Small real pictures for the tests of stores: structure at all scales, as photographs have it."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.data.store.record import Picture, Record, record_id


def scene(height: int = 128, width: int = 128, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with a spectrum that falls with the frequency."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    fall = np.maximum(np.hypot(rows, columns), 1 / max(height, width))[..., None] ** 1.1
    picture = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) / fall, s=(height, width), axes=(0, 1))
    return np.clip((picture - picture.mean()) / picture.std() * 50 + 128, 0, 255).astype(np.uint8)


def with_patch(pixels: np.ndarray, seed: int = 0, share: float = 0.3) -> np.ndarray:
    """The picture with a local edit: a square of other structure, `share` of its sides long."""
    random = np.random.default_rng(seed)
    side = int(min(pixels.shape[:2]) * share)
    top, left = (int(random.integers(0, length - side)) for length in pixels.shape[:2])
    edited = pixels.copy()
    edited[top : top + side, left : left + side] = scene(side, side, seed + 1000)[:, :, ::-1]
    return edited


def encoded(pixels: np.ndarray | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(pixels: np.ndarray | Image.Image | bytes, role: Any = "source", kind: str = "JPEG") -> Picture:
    """Encoded, with the size that it has."""
    data = pixels if isinstance(pixels, bytes) else encoded(pixels, kind)
    with Image.open(io.BytesIO(data)) as image:
        return Picture(data, *image.size, role)


@cache
def pair(number: int) -> tuple[Picture, Picture]:
    """A picture and a local edit of it."""
    pixels = scene(seed=number)
    return picture(pixels), picture(with_patch(pixels, number))


def sound(number: int, **changes: Any) -> Record:
    """A record in which nothing is wrong."""
    source, target = pair(number)
    fields = {
        "id": record_id("made", str(number)),
        "dataset": "made",
        "images": (source,),
        "target": target,
        "instruction": "Add a red balloon to the sky.",
        "licence": "CC-BY-4.0",
        "native_task": "addition",
        "tags": (0, 6, 13),
    }
    return Record(**{**fields, **changes})
