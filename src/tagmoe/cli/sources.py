"""Read the pictures of a command: files, pictures of the package, and stdin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tagmoe.cli.batch import STREAM
from tagmoe.errors import ImageError, UsageError
from tagmoe.pipeline.packaged import picture_path

if TYPE_CHECKING:
    from PIL.Image import Image


class Source(NamedTuple):
    """A picture as it was named, its pixels (RGB; of a mask L), and the SHA-256 of its bytes."""

    path: Path
    image: Image
    digest: str


def read_source(path: Path) -> Source:
    """A picture to edit; "-" is stdin, which is read to its end. Raises ImageError for no usable picture."""
    from tagmoe.cli.metadata import digest_of
    from tagmoe.pictures import load_image

    if path != STREAM:
        place = picture_path(path)
        image = load_image(place)
        return Source(path, image, digest_of(place.expanduser().read_bytes()))
    if sys.stdin.isatty():
        raise UsageError("The picture - is read from stdin, and nothing is piped into it; give a file, or use a pipe.")
    data = sys.stdin.buffer.read()
    try:
        return Source(path, load_image(data), digest_of(data))
    except ImageError as error:
        raise ImageError(f"What was read from stdin cannot be used ({error}); pipe a whole picture.") from None


def read_mask(path: Path) -> Source:
    """A mask, from a file. Raises ImageError for no usable picture, UsageError for stdin."""
    from tagmoe.cli.metadata import digest_of
    from tagmoe.pictures import load_mask

    if path == STREAM:
        raise UsageError("--mask is -, but a mask is read from a file only; give its path.")
    return Source(path, load_mask(path), digest_of(path.expanduser().read_bytes()))
