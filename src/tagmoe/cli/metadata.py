"""How a picture was made, in the picture itself: one writer and one reader for PNG, JPEG, WebP and TIFF.

A PNG file has a text chunk for each fact. The others have EXIF data: a user comment of JSON in ASCII. BMP has no place.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from tagmoe.pictures import exif_of, open_picture

SOFTWARE = "tagmoe"
QUALITY = 95
"""Of JPEG and WebP."""
HOLDING = ("PNG", "JPEG", "WEBP", "TIFF")
MOST_JPEG = 65_533
"""Bytes of EXIF data in a JPEG: the length of a segment is a number of 16 bits."""
_CHARSET = b"ASCII\0\0\0"


def save_options(kind: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """The options of Pillow's `save` for a format of HOLDING, or BMP, with these facts in the picture if they fit."""
    options: dict[str, Any] = {"quality": QUALITY} if kind in ("JPEG", "WEBP") else {}
    if not facts or not has_place(kind, facts):
        return options
    if kind == "PNG":
        info = PngInfo()
        for name, value in facts.items():
            info.add_text(name, value)
        return options | {"pnginfo": info}
    return options | {"exif": _exif(facts)}


def has_place(kind: str, facts: Mapping[str, str]) -> bool:
    """Whether a picture of this format can hold these facts."""
    return kind in HOLDING and (kind != "JPEG" or len(_exif(facts)) <= MOST_JPEG)


def _exif(facts: Mapping[str, str]) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _CHARSET + json.dumps(dict(facts)).encode("ascii")
    # As bytes: Pillow writes the inner block of an object into a TIFF only if it was read from one.
    return exif.tobytes()


def read_facts(path: Path) -> dict[str, str]:
    """The facts in a picture; empty where it has none or others wrote them. Raises ImageError for no picture."""
    with open_picture(path) as image:
        if image.format == "PNG":
            image.load()
            return {name: str(value) for name, value in getattr(image, "text", {}).items()}
        comment = exif_of(image).get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        data = comment if isinstance(comment, bytes) else str(comment).encode()
        try:
            found = json.loads(data.removeprefix(_CHARSET))
        except (ValueError, RecursionError):
            return {}
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def recorded(path: Path, digest: str, folder: Path) -> dict[str, str]:
    """How a picture is named in the facts of a result in `folder`: by its way from there, and its SHA-256.

    A way from the result holds when both are moved together, and says less about the machine than a whole path.
    """
    name = str(path)
    if is_file_name(name):
        name = Path(os.path.relpath(path.expanduser().resolve(), folder.resolve())).as_posix()
    return {"path": name, "sha256": digest}


def recorded_place(name: str, folder: Path) -> Path:
    """The path that `recorded` meant, for a result in `folder` now."""
    return folder / name if is_file_name(name) else Path(name)


def is_file_name(name: str) -> bool:
    """Whether this names a file, and neither a picture of the package nor stdin."""
    return name != "-" and not name.startswith("example:")


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
