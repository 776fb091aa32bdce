"""What is done to whole pictures: light, styles, damage, edges. Pure functions of uint8 pictures (H, W, 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """Rounded to uint8, within 0..255."""
    return np.clip(values + 0.5, 0.0, 255.0).astype(np.uint8)


def luma(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32, 0..255."""
    result: np.ndarray = picture.astype(np.float32) @ LUMA
    return result


def night(picture: np.ndarray) -> np.ndarray:
    """The picture in moonlight: dark and blue."""
    gain, offset = np.array([0.28, 0.34, 0.56], np.float32), np.array([2.0, 6.0, 24.0], np.float32)
    return bytes_of(picture * gain + offset)


def grey(picture: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Without colours; kept: (H, W) float, 0..1, how much of its colours a pixel keeps."""
    plain = luma(picture)[..., None]
    if kept is None:
        return bytes_of(np.repeat(plain, 3, axis=2))
    return bytes_of(plain + (picture - plain) * kept[..., None])


def _sketch(picture: np.ndarray) -> np.ndarray:
    ink = np.clip(_gradient(luma(picture)) / 70.0, 0.0, 1.0)
    return bytes_of(np.array([250.0, 247.0, 238.0], np.float32) * (1.0 - 0.85 * ink)[..., None])


def _sepia(picture: np.ndarray) -> np.ndarray:
    dark, light = np.array([52.0, 28.0, 12.0], np.float32), np.array([255.0, 232.0, 186.0], np.float32)
    return bytes_of(dark + (light - dark) * (luma(picture) / 255.0)[..., None])


def _poster(picture: np.ndarray) -> np.ndarray:
    smooth = np.asarray(Image.fromarray(picture).filter(ImageFilter.BoxBlur(1)), dtype=np.float32)
    return bytes_of(np.floor(smooth / 64.0) * 85.0)


def _mosaic(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    side = max(4, image.width // 16)
    small = image.resize((-(-image.width // side), -(-image.height // side)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST))


def _negative(picture: np.ndarray) -> np.ndarray:
    return 255 - picture


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a pencil sketch": _sketch,
    "an old sepia photograph": _sepia,
    "a black and white photograph": grey,
    "a poster with few colours": _poster,
    "a mosaic of square tiles": _mosaic,
    "a photographic negative": _negative,
}
INVERTIBLE = ("a poster with few colours", "a photographic negative")
"""Styles whose pictures show nearly all of what the photograph did; the others lose its colours."""


def noisy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With noise of a standard deviation of 38 grey levels."""
    return bytes_of(picture + rng.standard_normal(picture.shape, dtype=np.float32) * 38.0)


def blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus by 1/32 of the side."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(len(picture) / 32)))


def faded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale and yellow, as an old print."""
    return bytes_of(picture * 0.42 + np.array([128.0, 112.0, 78.0], np.float32))


def scratched(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With white scratches from edge to edge."""
    side = len(picture)
    out = picture.copy()
    rows = np.arange(side)
    for _ in range(5):
        start, slope = rng.random() * side, (rng.random() - 0.5) * 1.2
        centre = start + slope * rows
        line = np.abs(np.arange(side)[None, :] - centre[:, None]) < max(1.0, side / 64)
        out[line if rng.random() < 0.5 else line.T] = 250
    return out


DAMAGE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "noise": noisy,
    "blur": blurred,
    "fading": faded,
    "scratches": scratched,
}


def small(picture: np.ndarray, factor: int = 4) -> np.ndarray:
    """A picture of a quarter of the side, enlarged again without any new detail."""
    image = Image.fromarray(picture)
    tiny = image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
    return np.asarray(tiny.resize(image.size, Image.Resampling.BICUBIC))


def edges(picture: np.ndarray) -> np.ndarray:
    """The structure map of a picture: white lines on black."""
    strength = _gradient(luma(np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7)))))
    lines = np.clip((strength - 24.0) / 40.0, 0.0, 1.0) * 255.0
    return bytes_of(np.repeat(lines[..., None], 3, axis=2))


def _gradient(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W): the difference to the left and upper neighbours."""
    padded = np.pad(values, ((1, 0), (1, 0)), mode="edge")
    across, down = padded[1:, 1:] - padded[1:, :-1], padded[1:, 1:] - padded[:-1, 1:]
    result: np.ndarray = np.abs(across) + np.abs(down)
    return result
