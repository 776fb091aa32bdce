"""Size and ending of the plainest PNG and JPEG files, from their first bytes, without a decoder.

Only what every decoder reads in one way: no EXIF, whole headers, 8 bits, usual markers. For anything else the answer is
None, and the caller opens the picture. An import reads two headers a row, and a decoder costs more than the rest.
"""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = (0, 2, 3, 4, 6)
_CHUNK = struct.Struct(">I4s")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Names of texts that hold EXIF or XMP, which may turn the picture.
_TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type ")
# JPEG: baseline, extended and progressive frames; markers with a length that come before them.
_FRAMES = (0xC0, 0xC1, 0xC2)
_SEGMENTS = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
_APP1 = 0xE1


def plain_header(data: bytes) -> tuple[int, int, str] | None:
    """(width, height, ending) of a plain PNG or JPEG that needs no turn; None where a decoder must say."""
    if data.startswith(_PNG):
        return _png(data)
    return _jpeg(data) if data.startswith(b"\xff\xd8\xff") else None


def _png(data: bytes) -> tuple[int, int, str] | None:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR" or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33]):
        return None
    width, height, depth, colour, method, filtering, interlacing = struct.unpack(">IIBBBBB", data[16:29])
    if not (width and height) or depth != 8 or colour not in _PNG_COLOURS or method or filtering or interlacing > 1:
        return None
    place, has_pixels = 33, False
    while place + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, place)
        # EXIF may also stand behind the pixels, so that all chunks are passed over.
        # cICP may say that the picture has high dynamic range.
        if kind in (b"eXIf", b"cICP") or (kind in _TEXTS and data.startswith(_TURNING, place + 8)):
            return None
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            has_pixels = True
        elif not has_pixels:
            end = place + 8 + length
            if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4]):
                return None
        place += 12 + length
    return (width, height, "png") if has_pixels else None


def _jpeg(data: bytes) -> tuple[int, int, str] | None:
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            depth, height, width, parts = struct.unpack(">BHHB", data[place + 4 : place + 10])
            return (width, height, "jpg") if width and height and depth == 8 and parts in (1, 3) else None
        # The data of EXIF and XMP may turn the picture.
        if marker not in _SEGMENTS or marker == _APP1:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None
