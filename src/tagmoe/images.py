"""Pictures in: what a user has (path, PIL, array, tensor) becomes one upright 8-bit RGB picture, or a clear error.

The order matters: the size is read from the header before a pixel is decoded, the EXIF turn comes before the mode is
changed (converting drops EXIF), 16-bit values are scaled and not clipped, transparency is laid on white as the release
does.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from tagmoe.errors import ImageError, UsageError

# Decoders that run in this process: for EPS, Pillow would start another program. JPEG includes MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
ALLOWED = "a path, a PIL image, an array (H, W[, C]) or a tensor (C, H, W)"


def load_image(source: Any) -> Image.Image:
    """One upright RGB picture from a path, PIL image, array (H, W[, C]) or tensor (C, H, W); floats are 0..1.

    Transparency is flattened on white, 16-bit is scaled to 8-bit, of an animation the current (in a file: first) frame
    is taken. Raises ImageError for what is no usable picture, for more than 64 megapixels and for URLs.
    """
    if isinstance(source, torch.Tensor):
        return _from_array(_tensor_to_array(source), "tensor")
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, Image.Image):
        return _from_pil(source, f"the {source.mode} image")
    if isinstance(source, str | os.PathLike):
        return _from_path(source)
    raise ImageError(f"An image of type {type(source).__name__} is not understood; give {ALLOWED}.")


def nest_images(image: Any, samples: int, is_batch: bool) -> list[list[Image.Image]]:
    """The references of each prompt; one inner list when all prompts share them, [[]] without references.

    With `is_batch` a flat list is refused, as it could mean either. Raises UsageError when the numbers do not fit.
    """
    if image is None:
        return [[]]
    if not isinstance(image, list | tuple):
        return [[load_image(image)]]
    if not image:
        raise UsageError("image is an empty list; give at least one reference, or None to generate from text.")
    nested = any(isinstance(entry, list | tuple) for entry in image)
    if not nested and not is_batch:
        return [[load_image(entry) for entry in image]]
    if not all(isinstance(entry, list | tuple) for entry in image) or len(image) != samples:
        raise UsageError(
            f"image has {len(image)} entries for {samples} prompts; with a list of prompts give one picture for all of "
            "them, or a list with one list of references for each prompt."
        )
    counts = sorted({len(entry) for entry in image})
    if counts[0] == 0 or len(counts) > 1:
        raise UsageError(f"The prompts have {counts} references; give every prompt the same number, at least one.")
    return [[load_image(entry) for entry in pictures] for pictures in image]


def fit_size(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """The (height, width) closest to `area` pixels that keeps the aspect, with both sides a multiple of `multiple`."""
    scale = math.sqrt(area / (width * height))
    sides = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return next(sides), next(sides)


def resize_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """`image` at exactly `height` x `width`, LANCZOS; the same object when it has that size already."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def images_to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Equally large RGB pictures as float32 pixels (B, 3, H, W) in [-1, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _from_path(source: str | os.PathLike[str]) -> Image.Image:
    name = os.fspath(source)
    if isinstance(name, str) and name.lower().startswith(("http://", "https://", "data:")):
        raise ImageError(f"{_short(name)!r} is a URL and nothing is fetched; download the picture and give its path.")
    path = Path(os.fsdecode(name)).expanduser()
    if path.is_dir():
        raise ImageError(f"{str(path)!r} is a folder, not a picture; give the path of a picture file.")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, where the limit below is stricter, and of EXIF damage, which is harmless.
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise ImageError(f"There is no picture file {str(path)!r}; check the path.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{str(path)!r} is not a picture that can be read; use PNG, JPEG, WebP, BMP, GIF or TIFF."
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{str(path)!r} is too large; at most 64 megapixels are allowed: scale it down.") from None
    except Exception as error:
        # A decoder may fail in any way at all on a file that somebody made to that end.
        reason = _short(str(error)) or type(error).__name__
        raise ImageError(f"{str(path)!r} cannot be opened ({reason}); give a readable picture file.") from None
    with image:
        return _from_pil(image, repr(str(path)))


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    _check_size(width, height, name)
    try:
        image.load()
        upright: Image.Image = image
        # A damaged EXIF block does not make the pixels unusable: such a picture is taken as it is.
        bad_exif = contextlib.suppress(Exception)
        with bad_exif, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright, name)
    except ImageError:
        raise
    except Exception as error:
        reason = _short(str(error)) or type(error).__name__
        raise ImageError(f"{name} is damaged or incomplete ({reason}); save or download the picture again.") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(np.asarray(image), name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    # A copy also when it is RGB already, so that the result never shares memory with what the user holds.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(
            f"A tensor of shape {tuple(tensor.shape)} is no picture; give (C, H, W) with 1, 3 or 4 channels."
        )
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy()


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        raise ImageError(
            f"An {name} of shape {array.shape} is no picture; give (H, W) or (H, W, C) with 1 to 4 channels."
        )
    _check_size(array.shape[1], array.shape[0], f"the {name}" if name in ("array", "tensor") else name)
    eight_bit = _to_eight_bit(array, name)
    if eight_bit.ndim == 3 and eight_bit.shape[2] in (2, 4):
        return _to_rgb(Image.fromarray(eight_bit), name)
    return Image.fromarray(eight_bit).convert("RGB")


def _to_eight_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "uif":
        raise ImageError(f"{name} holds {array.dtype} values; give 8-bit or 16-bit integers, or floats from 0 to 1.")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f":
        # A rounding error outside 0..1 is forgiven; -1..1 or 0..255 is not, as guessing would give a wrong picture.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ImageError(f"{name} has floating-point values from {low:g} to {high:g}; scale them to 0..1.")
        return np.round(array.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ImageError(f"{name} has {array.dtype} values from {low:g} to {high:g}; give 8-bit or 16-bit integers.")
    is_uint16 = array.dtype.kind == "u" and array.dtype.itemsize == 2
    if not is_uint16 and high <= 255:
        return array.astype(np.uint8)
    return np.round(array / 257.0).astype(np.uint8)


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width}x{height} pixels; it needs at least one pixel.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width}x{height} = {width * height / 1e6:.0f} megapixels; at most 64 are allowed, so scale it."
        )


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
