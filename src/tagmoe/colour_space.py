"""What the numbers in a picture's pixels mean as colours, from whatever tag the format has, and those colours in sRGB.

The chunk cICP of a PNG file comes first, as its standard says, then an embedded ICC profile. Then the chunks sRGB, else
gAMA and cHRM, then the EXIF colour space Adobe RGB, which cameras record without a profile. A picture without any of
these is taken as sRGB. AVIF and HEIC say it in a box that holds the same numbers as cICP; there an ICC profile comes
first. A picture of high dynamic range (PQ or HLG) has no one meaning in sRGB: without an ICC profile it is not read.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

# White, red, green and blue as CIE x and y, in the order of the cHRM chunk.
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 256 / 563
# Of ITU-T H.273: colour primaries, and the exponent of a transfer function (None: sRGB's curve). Pictures of BT.709 and
# BT.2020 are shown by a curve of 2.4 (BT.1886).
CICP_PRIMARIES = {
    1: SRGB,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
CICP_CURVES = {1: 2.4, 4: 2.2, 5: 2.8, 6: 2.4, 8: 1.0, 13: None, 14: 2.4, 15: 2.4}
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}
USUAL_GAMMA = 1 / 2.2
"""The gAMA chunk of nearly all files. It stands for sRGB, whose curve has no single exponent."""
NEAR = 0.005
D50 = (0.9642, 1.0, 0.8249)
# Cone responses of XYZ: white is adapted in them (Bradford), as ICC profiles want it.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_ADOBE = 2
_PNG = b"\x89PNG\r\n\x1a\n"
CICP = "cicp"
_BOX = b"colrnclx"
_BOXES_END = 1 << 16
_OPTION_FILE = "R03"


def profile_of(image: Image.Image, exif: Image.Exif) -> bytes | None:
    """The ICC profile of a picture: the embedded one, or one made of what other tags say; None for sRGB.

    May raise anything for damaged tags.
    """
    primaries, curve = image.info.get(CICP, (None, None))
    if primaries in CICP_PRIMARIES and curve in CICP_CURVES:
        if (CICP_PRIMARIES[primaries], CICP_CURVES[curve]) == (SRGB, None):
            return None
        return matrix_profile(CICP_PRIMARIES[primaries], CICP_CURVES[curve])
    data: bytes | None = image.info.get("icc_profile")
    if data or "srgb" in image.info:
        return data or None
    gamma, points = image.info.get("gamma"), image.info.get("chromaticity")
    if gamma or points:
        usual = not gamma or abs(gamma - USUAL_GAMMA) < NEAR
        if usual and (not points or max(abs(a - b) for a, b in zip(points, SRGB, strict=True)) < NEAR):
            return None
        return matrix_profile(points or SRGB, None if usual or not gamma else 1 / gamma)
    if _is_adobe(exif):
        return matrix_profile(ADOBE_RGB, 1 / ADOBE_GAMMA)
    return None


def note_cicp(image: Image.Image, file: IO[bytes]) -> None:
    """Note in `image.info` the numbers of H.273 that a PNG, AVIF or HEIC file says its colours by.

    Pillow has no place for them.
    """
    place = file.tell()
    file.seek(0)
    if image.format == "PNG":
        _note_chunk(image, file)
    elif image.format in ("AVIF", "HEIF") and not image.info.get("icc_profile"):
        _note_box(image, file)
    file.seek(place)


def _note_chunk(image: Image.Image, file: IO[bytes]) -> None:
    file.seek(len(_PNG))
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        content = file.read(length + 4) if head[4:] == b"cICP" else b""
        # A matrix, or values of a part of the range, are for films.
        if len(content) == 8 and zlib.crc32(b"cICP" + content[:4]) == int.from_bytes(content[4:], "big"):
            image.info[CICP] = tuple(content[:2]) if tuple(content[2:4]) == (0, 1) else (None, None)
        if not content:
            file.seek(length + 4, io.SEEK_CUR)


def _note_box(image: Image.Image, file: IO[bytes]) -> None:
    # The boxes stand before the pixels. Decoders undo the matrix and the range; they leave primaries and curve.
    start = file.read(_BOXES_END)
    at = start.find(_BOX) + len(_BOX)
    if at >= len(_BOX) and len(start) >= at + 4:
        primaries, curve = (int.from_bytes(start[place : place + 2], "big") for place in (at, at + 2))
        # Still pictures with the curve of BT.709 or BT.2020 are sRGB ones whose encoder had films in mind.
        image.info[CICP] = (primaries, 13 if CICP_CURVES.get(curve) == CICP_CURVES[1] else curve)


def high_dynamic_range(image: Image.Image) -> str | None:
    """PQ or HLG, where an opened picture's numbers are of high dynamic range and no ICC profile says what to show."""
    curve = image.info.get(CICP, (None, None))[1]
    return None if image.info.get("icc_profile") else HIGH_DYNAMIC_RANGE.get(curve)


def is_srgb(image: Image.Image, exif: Image.Exif) -> bool:
    """Whether a picture's pixels are sRGB as they are, by its header. A damaged tag is ignored, as when it is read."""
    try:
        data = profile_of(image, exif)
        if not data:
            return True
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        return profile.profile.xcolor_space.strip() == "RGB" and _changes_nothing(_transform(profile, "RGB"))
    except Exception:
        return True


def to_srgb(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """The picture with its colours converted to sRGB; the same object where that changes none. Transparency stays.

    Colours outside sRGB are clipped (relative colorimetric). Modes of more than 8 bits must be converted before. May
    raise anything for damaged tags.
    """
    data = profile_of(image, exif)
    if not data:
        return image
    from PIL import ImageCms

    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode in ("1", "L", "La") else "RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert(image.mode[:-1]) if alpha is not None else image
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and colours.mode in ("L", "RGB"):
        colours = colours.convert("RGB")
    elif (space, colours.mode) not in (("GRAY", "L"), ("CMYK", "CMYK")):
        return image
    transform = _transform(profile, colours.mode)
    if space == "RGB" and _changes_nothing(transform):
        return image
    converted: Image.Image = transform.apply(colours)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def matrix_profile(points: Sequence[float], exponent: float | None) -> bytes:
    """An ICC profile of RGB. points: eight numbers, x and y of white, red, green and blue. exponent: None for sRGB's.

    Raises an error of NumPy for points that span no colours.
    """
    pairs = zip(points[::2], points[1::2], strict=True)
    white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in pairs)
    columns = np.stack(primaries, axis=1)
    columns = columns * np.linalg.solve(columns, white)
    cones = (_BRADFORD @ np.array(D50)) / (_BRADFORD @ white)
    columns = np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ columns))
    kind, numbers = (0, (exponent,)) if exponent is not None else (3, _SRGB_CURVE)
    curve = b"para" + bytes(4) + kind.to_bytes(2, "big") + bytes(2) + b"".join(map(_fixed, numbers))
    tags = {b"desc": b"mluc" + bytes(4) + bytes(4) + (12).to_bytes(4, "big"), b"wtpt": _xyz(D50)}
    for name, column in zip("rgb", columns.T, strict=True):
        tags[f"{name}XYZ".encode()], tags[f"{name}TRC".encode()] = _xyz(column), curve
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name_bytes, content in tags.items():
        table += name_bytes + (start + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    head = (start + len(body)).to_bytes(4, "big") + bytes(4) + b"\x04\x20\x00\x00mntrRGB XYZ " + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + len(tags).to_bytes(4, "big") + table + body


def _is_adobe(exif: Image.Exif) -> bool:
    """Cameras write either a colour space of 2, or "uncalibrated" and DCF's name of the option file for Adobe RGB."""
    if exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) == _ADOBE:
        return True
    name = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex, "")
    return str(name).rstrip("\0") == _OPTION_FILE


def _transform(profile: Any, mode: str) -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )


def _changes_nothing(transform: Any) -> bool:
    """Whether a transform is that of sRGB itself, in whatever words: it moves no colour by more than rounding."""
    axis = np.arange(0, 256, 17, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(lattice)))
    return int(np.abs(moved.astype(np.int16) - lattice).max()) <= 1


def _fixed(value: float) -> bytes:
    return round(float(value) * 65536).to_bytes(4, "big", signed=True)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))
