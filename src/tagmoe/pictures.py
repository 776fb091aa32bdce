"""Load pictures: a path, bytes, PIL image, array or tensor becomes one upright 8-bit RGB picture, or a clear error.

This is the only module that opens pictures. It reads the size from the header before it decodes a pixel. It applies the
EXIF turn before it converts the mode, because converting drops EXIF. It converts colours to sRGB (see
`tagmoe.colour_space`). It scales 16-bit values instead of clipping them. It lays transparency on white, as the release
does. Of a mask it lays transparency on black, because what is not painted is not selected.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tagmoe.colour_space import high_dynamic_range, is_srgb, note_cicp, to_srgb
from tagmoe.errors import ImageError
from tagmoe.picture_header import plain_header
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
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of such sizes are the EXIF blocks that formats can hold; a longer chunk is damage.
_LONGEST_EXIF = 1 << 24


class Header(NamedTuple):
    """width, height: upright, in pixels."""

    width: int
    height: int
    extension: str


def read_header(data: bytes) -> Header:
    """What the header of an encoded picture says, without decoding a pixel.

    Raises ImageError for empty bytes, for bytes that are no picture, and for more than 64 megapixels. As in all errors
    about bytes the message is a short fixed text, so that importers can count it as a reason for skipping a row.
    """
    plain = plain_header(data)
    if plain is not None:
        _check_size(plain[0], plain[1], "picture", short=True)
        return Header(*plain)
    with open_picture(data) as image:
        return Header(*upright_size(image), _EXTENSIONS[image.format or ""])


def is_plain(data: bytes) -> bool:
    """Whether every reader sees the same in these bytes: an upright, opaque picture of 8 bits in sRGB.

    Only the header is read. Raises ImageError as `read_header` does.
    """
    with open_picture(data) as image:
        is_simple = image.mode in ("1", "L", "P", "RGB") and not image.has_transparency_data
        return is_simple and orientation(image) == 1 and is_srgb(image, exif_of(image))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened picture after its turn."""
    # Pillow gives the size of a TIFF as it is after the turn.
    is_exchanged = orientation(image) in EXCHANGING and image.format != "TIFF"
    return image.size[::-1] if is_exchanged else image.size


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8: 1 is upright, also where there is none or the EXIF block is damaged."""
    try:
        turn = int(exif_of(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
    return turn if turn in _TURNS else 1


def exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF data of an opened picture, empty where there is none or it is damaged; no pixel is decoded."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        # The base class's method: PNG's own would decode the whole picture to find EXIF data behind the pixels.
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and not exif:
            late = image.info.get("exif") or _late_exif(getattr(image, "fp", None))
            if late:
                exif = Image.Exif()
                exif.load(late)
    return exif


def _late_exif(file: IO[bytes] | None) -> bytes:
    """The EXIF chunk of a PNG file, wherever it stands. The file's position stays."""
    if file is None:
        return b""
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf" and length < _LONGEST_EXIF:
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(place)


@contextmanager
def open_picture(
    source: bytes | str | os.PathLike[str], *, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """An encoded picture or a file with its header read and its size checked; no pixel is decoded yet.

    Raises ImageError for a source that is no picture of these formats, has more than 64 megapixels, or has high dynamic
    range and no ICC profile. Any error inside the block becomes an ImageError too, because a decoder may raise anything
    on malicious bytes.
    """
    path = None if isinstance(source, bytes) else _path(source)
    name = "picture" if path is None else repr(str(path))
    with warnings.catch_warnings():
        # Pillow warns of large pictures, where the limit below is stricter, and of EXIF damage, which is harmless.
        warnings.simplefilter("ignore")
        # A file that is opened here: by its name Pillow would map it, and then it shears turned TIFFs of some modes.
        with contextlib.ExitStack() as stack:
            try:
                file = (
                    io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(_path(source).open("rb"))
                )
                image = stack.enter_context(Image.open(file, formats=_readable(formats, path, source)))
                note_cicp(image, file)
            except ImageError:
                raise
            except Exception as error:
                _refuse_to_open(path, source, error)
            _check_size(*image.size, name, short=path is None)
            if curve := high_dynamic_range(image):
                sentence = f"{name} has high dynamic range ({curve}), which cannot be read here; export it as SDR."
                raise ImageError("picture of high dynamic range" if path is None else sentence)
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
    return _load(source, draft=draft)


def load_mask(source: Any) -> Image.Image:
    """One upright mask of mode L, 255 where it selects and 0 elsewhere, from what `load_image` takes.

    A mask selects where it is brighter than middle grey. Transparent parts select nothing, and half-transparent white
    counts as grey. Colour spaces are ignored: a mask holds no colours. Raises ImageError as `load_image` does.
    """
    return _load(source, is_mask=True).convert("L").point(lambda value: 255 if value >= 128 else 0)


def load_hole_mask(data: bytes) -> Image.Image:
    """A mask of OpenAI's images API, of mode L: 255 where the picture is fully transparent, 0 elsewhere.

    A picture without transparency is read as `load_mask` reads it: white selects. Raises ImageError.
    """
    with open_picture(data) as image:
        if image.has_transparency_data:
            alpha = upright_picture(image).convert("RGBA").getchannel("A")
            if np.asarray(alpha).min() < 255:
                return alpha.point(lambda value: 255 if value == 0 else 0)
    return load_mask(data)


def _load(source: Any, *, draft: tuple[int, int] | None = None, is_mask: bool = False) -> Image.Image:
    ground = "black" if is_mask else "white"
    if hasattr(source, "detach"):
        return _from_array(_tensor_to_array(source), "tensor", ground)
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", ground)
    if isinstance(source, Image.Image):
        _check_size(*source.size, f"the {source.mode} image")
        try:
            return upright_rgb(source, is_mask=is_mask)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(_damaged(f"the {source.mode} image", error)) from None
    if isinstance(source, bytes | str | os.PathLike):
        with open_picture(source) as image:
            if draft is not None:
                image.draft(None, draft if orientation(image) not in EXCHANGING else draft[::-1])
            name = "picture" if isinstance(source, bytes) else repr(os.fsdecode(source))
            return upright_rgb(image, name, is_mask=is_mask)
    raise ImageError(f"An image of type {type(source).__name__} is not understood; give {ALLOWED}.")


def upright_rgb(image: Image.Image, name: str | None = None, *, is_mask: bool = False) -> Image.Image:
    """An opened picture, turned as its tags say, in 8-bit RGB; always a new object. name: used in errors.

    is_mask: transparency is laid on black instead of white, and colours are not converted.
    """
    name = name or f"the {image.mode} image"
    upright = upright_picture(image, name)
    # A damaged profile does not make the pixels unusable: they are taken as sRGB.
    with contextlib.suppress(Exception):
        upright = upright if is_mask else to_srgb(upright, exif_of(image))
    return to_rgb(upright, name, "black" if is_mask else "white")


def upright_picture(image: Image.Image, name: str = "the picture") -> Image.Image:
    """An opened picture, decoded and turned as its tags say, at 8 bits; its mode otherwise stays, as do its colours."""
    image.load()
    # Asked after decoding, because Pillow turns a TIFF itself when it decodes it.
    turn = orientation(image)
    upright = image if turn == 1 else image.transpose(_TURNS[turn])
    return _eight_bit(upright, name) if upright.mode.startswith("I") or upright.mode == "F" else upright


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """A picture of mode I or F as L, or as LA where one of its values stands for transparency. Its tags stay."""
    values = np.asarray(image)
    grey = Image.fromarray(_to_eight_bit(values, name))
    grey.info = dict(image.info)
    clear = grey.info.pop("transparency", None)
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def png_of(image: Image.Image) -> bytes:
    """A picture as a PNG. At the default level one of a megapixel takes three times as long, and is a tenth smaller."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def quick_png(image: Image.Image) -> bytes:
    """An RGB or grey picture as a lossless PNG in half the time of `png_of`, for one that is sent and forgotten.

    Every row is kept as its difference from the one above (PNG's filter 2), where Pillow tries five filters for each.
    Enlarged pictures become as small; photographs become about a tenth larger. Raises ValueError for another mode.
    """
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"The mode is {image.mode}; give RGB or L.")
    values = np.asarray(image).reshape(image.height, -1)
    rows = np.empty((image.height, 1 + values.shape[1]), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    head = struct.pack(">IIBBBBB", *image.size, 8, 2 if image.mode == "RGB" else 0, 0, 0, 0)
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b"")):
        pieces += [
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))),
        ]
    return b"".join(pieces)


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


def to_rgb(image: Image.Image, name: str = "the picture", ground: str = "white") -> Image.Image:
    """8-bit RGB: 16-bit values are scaled, transparency is laid on the ground. Always a new object.

    name: used in errors. ground: a colour.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, ground), colour).convert("RGB")
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


def _from_array(array: np.ndarray, name: str, ground: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        raise ImageError(
            f"An {name} of shape {array.shape} is no picture; give (H, W) or (H, W, C) with 1 to 4 channels."
        )
    _check_size(array.shape[1], array.shape[0], f"the {name}" if name in ("array", "tensor") else name)
    eight_bit = _to_eight_bit(array, name)
    if eight_bit.ndim == 3 and eight_bit.shape[2] in (2, 4):
        return to_rgb(Image.fromarray(eight_bit), name, ground)
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
