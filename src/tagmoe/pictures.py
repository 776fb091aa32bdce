"""Load pictures: a path, bytes, PIL image, array or tensor becomes one upright 8-bit RGB picture, or a clear error.

This is the only module that opens pictures. It reads the size from the header before it decodes a pixel. It applies the
EXIF turn before it converts the mode, because converting drops EXIF. It converts the colours of an embedded profile to
sRGB. It scales 16-bit values instead of clipping them. It lays transparency on white, as the release does.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tagmoe.errors import ImageError
from tagmoe.sentences import cut

# Only formats that Pillow decodes in this process: for EPS it would start another program. JPEG includes MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
# The first bytes of AVIF and HEIC name a brand. Pillow may be built without AVIF, and reads HEIC with pillow-heif only.
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF"}
MAX_PIXELS = 64_000_000
TOO_LARGE = "picture of more than 64 megapixels"
"""The message of ImageError for encoded bytes that are too large."""
ALLOWED = "a path, encoded bytes, a PIL image, an array (H, W[, C]) or a tensor (C, H, W)"
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif"}
_EXTENSIONS |= {"AVIF": "avif", "HEIF": "heic"}
EXCHANGING = (5, 6, 7, 8)
"""Values of the EXIF orientation that exchange width and height."""
_TURNED = range(2, 9)


class Header(NamedTuple):
    """width, height: upright, in pixels. upright: whether the pixels are stored that way."""

    width: int
    height: int
    extension: str
    upright: bool


def read_header(data: bytes) -> Header:
    """What the header of an encoded picture says, without decoding a pixel.

    Raises ImageError for empty bytes, for bytes that are no picture, and for more than 64 megapixels. As in all errors
    about bytes the message is a short fixed text, so that importers can count it as a reason for skipping a row.
    """
    with open_picture(data) as image:
        width, height = image.size
        turn = orientation(image)
        # Pillow gives the size of a TIFF as it is after the turn.
        if turn in EXCHANGING and image.format != "TIFF":
            width, height = height, width
        return Header(width, height, _EXTENSIONS[image.format or ""], upright=turn not in _TURNED)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8: 1 is upright, also where there is none or the EXIF block is damaged."""
    try:
        # The base class's method: PNG's own would decode the whole picture to find EXIF data behind the pixels.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


@contextmanager
def open_picture(
    source: bytes | str | os.PathLike[str], *, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """An encoded picture or a file with its header read and its size checked; no pixel is decoded yet.

    Raises ImageError for a source that is no picture of these formats or has more than 64 megapixels. Any error inside
    the block becomes an ImageError too, because a decoder may raise anything on malicious bytes.
    """
    path = None if isinstance(source, bytes) else _path(source)
    name = "picture" if path is None else repr(str(path))
    with warnings.catch_warnings():
        # Pillow warns of large pictures, where the limit below is stricter, and of EXIF damage, which is harmless.
        warnings.simplefilter("ignore")
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else _path(source)
            image = Image.open(file, formats=_readable(formats, path, source))
        except ImageError:
            raise
        except Exception as error:
            _refuse_to_open(path, source, error)
        with image:
            _check_size(*image.size, name, short=path is None)
            try:
                yield image
            except ImageError:
                raise
            except Exception as error:
                raise ImageError("damaged picture" if path is None else _damaged(name, error)) from None


def _readable(formats: tuple[str, ...], path: Path | None, source: Any) -> list[str]:
    """The formats that Pillow reads here. Raises ImageError for an AVIF or HEIC picture that it does not read."""
    if path is None:
        start = bytes(source[:12])
    else:
        with path.open("rb") as file:
            start = file.read(12)
    kind = BRANDS.get(start[8:12]) if start[4:8] == b"ftyp" else None
    if kind is None:
        return [name for name in formats if name != "AVIF"]
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN or (kind == "AVIF" and kind not in formats):
        name, hint = ("AVIF", "") if kind == "AVIF" else ("HEIC", ", or install and register pillow-heif")
        sentence = f"{str(path)!r} is a picture in {name}, which cannot be read here; convert it to PNG or JPEG{hint}."
        raise ImageError(f"picture in {name}" if path is None else sentence)
    return [kind]


def load_image(source: Any, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """One upright RGB picture from a path, bytes, PIL image, array (H, W[, C]) or tensor (C, H, W); floats are 0..1.

    Transparency is laid on white. 16-bit values are scaled to 8-bit. An animation gives its current frame, from a file
    the first. draft: a (width, height) that suffices; a JPEG is then decoded at a half, a quarter or an eighth of its
    size if that is still larger. Raises ImageError for an unusable picture, for more than 64 megapixels and for URLs.
    """
    if hasattr(source, "detach"):
        return _from_array(_tensor_to_array(source), "tensor")
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, Image.Image):
        _check_size(*source.size, f"the {source.mode} image")
        try:
            return upright_rgb(source)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(_damaged(f"the {source.mode} image", error)) from None
    if isinstance(source, bytes | str | os.PathLike):
        with open_picture(source) as image:
            if draft is not None:
                image.draft(None, draft if orientation(image) not in EXCHANGING else draft[::-1])
            return upright_rgb(image, "picture" if isinstance(source, bytes) else repr(os.fsdecode(source)))
    raise ImageError(f"An image of type {type(source).__name__} is not understood; give {ALLOWED}.")


def upright_rgb(image: Image.Image, name: str | None = None) -> Image.Image:
    """An opened picture, turned as its EXIF block says, in 8-bit RGB; always a new object. name: used in errors."""
    image.load()
    upright = image
    # A damaged EXIF block does not make the pixels unusable: such a picture is taken as it is.
    with contextlib.suppress(Exception):
        upright = ImageOps.exif_transpose(image)
    # Nor does a damaged profile: its colours are taken as sRGB.
    with contextlib.suppress(Exception):
        upright = _in_srgb(upright)
    return to_rgb(upright, name or f"the {image.mode} image")


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture with the colours of its embedded profile converted to sRGB; the same object where that changes none.

    Transparency stays. Colours outside sRGB are clipped (relative colorimetric).
    """
    data = image.info.get("icc_profile")
    if not data or image.mode.startswith(("I", "F")):
        return image
    from PIL import ImageCms

    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert(image.mode[:-1]) if alpha is not None else image
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and colours.mode in ("L", "RGB"):
        colours = colours.convert("RGB")
    elif (space, colours.mode) not in (("GRAY", "L"), ("CMYK", "CMYK")):
        return image
    transform = ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), colours.mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    if space == "RGB" and _changes_nothing(transform):
        return image
    converted = transform.apply(colours)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _changes_nothing(transform: Any) -> bool:
    """Whether a transform is that of sRGB itself, in whatever words: it moves no colour by more than rounding."""
    axis = np.arange(0, 256, 17, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(lattice)))
    return int(np.abs(moved.astype(np.int16) - lattice).max()) <= 1


def data_address(image: Image.Image, *, kind: str = "PNG", **options: Any) -> str:
    """A picture as a data: address for a page. options: further options of Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=85, **({"optimize": True} if kind == "PNG" else {}), **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def fit_size(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """The (height, width) closest to `area` pixels that keeps the aspect, with both sides a multiple of `multiple`."""
    scale = math.sqrt(area / (width * height))
    sides = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return next(sides), next(sides)


def resize_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """`image` at exactly `height` x `width`, LANCZOS; the same object when it has that size already."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _path(source: Any) -> Path:
    name = os.fspath(source)
    if isinstance(name, str) and name.lower().startswith(("http://", "https://", "data:")):
        raise ImageError(f"{cut(name)!r} is a URL and nothing is fetched; download the picture and give its path.")
    path = Path(os.fsdecode(name)).expanduser()
    if path.is_dir():
        raise ImageError(f"{str(path)!r} is a folder, not a picture; give the path of a picture file.")
    return path


def _refuse_to_open(path: Path | None, source: Any, error: Exception) -> NoReturn:
    """Raise ImageError: for a file with one sentence, for bytes with a short fixed text."""
    if isinstance(error, Image.DecompressionBombError):
        reason = TOO_LARGE
        sentence = f"{str(path)!r} is too large; at most 64 megapixels are allowed: scale it down."
    elif isinstance(error, FileNotFoundError):
        reason, sentence = "no picture", f"There is no picture file {str(path)!r}; check the path."
    elif isinstance(error, UnidentifiedImageError):
        reason = "no picture" if source else "empty picture"
        sentence = f"{str(path)!r} is not a picture that can be read; use PNG, JPEG, WebP, AVIF, BMP, GIF or TIFF."
    else:
        reason = "damaged picture header"
        why = cut(str(error)) or type(error).__name__
        sentence = f"{str(path)!r} cannot be opened ({why}); give a readable picture file."
    raise ImageError(reason if path is None else sentence) from None


def _damaged(name: str, error: Exception) -> str:
    reason = cut(str(error)) or type(error).__name__
    return f"{name} is damaged or incomplete ({reason}); save or download the picture again."


def to_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """8-bit RGB: 16-bit values are scaled, transparency is laid on white. Always a new object. name: used in errors."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(np.asarray(image), name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    # A copy also when it is RGB already, so that the result never shares memory with what the user holds.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _tensor_to_array(tensor: Any) -> np.ndarray:
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(
            f"A tensor of shape {tuple(tensor.shape)} is no picture; give (C, H, W) with 1, 3 or 4 channels."
        )
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy()
    return array


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
        return to_rgb(Image.fromarray(eight_bit), name)
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
        # Accept a rounding error outside 0..1. Refuse -1..1 and 0..255: guessing the range could give a wrong picture.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ImageError(f"{name} has floating-point values from {low:g} to {high:g}; scale them to 0..1.")
        return np.round(array.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ImageError(f"{name} has {array.dtype} values from {low:g} to {high:g}; give 8-bit or 16-bit integers.")
    if high <= 255 and not (array.dtype.kind == "u" and array.dtype.itemsize == 2):
        return array.astype(np.uint8)
    return np.round(array / 257.0).astype(np.uint8)


def _check_size(width: int, height: int, name: str, *, short: bool = False) -> None:
    if width < 1 or height < 1:
        reason = "picture without pixels"
        sentence = f"{name} is {width}x{height} pixels; it needs at least one pixel."
    elif width * height > MAX_PIXELS:
        reason, megapixels = TOO_LARGE, width * height / 1e6
        sentence = f"{name} is {width}x{height} = {megapixels:.0f} megapixels; at most 64 are allowed, so scale it."
    else:
        return
    raise ImageError(reason if short else sentence)
