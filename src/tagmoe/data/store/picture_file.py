"""Encoded pictures as a source has them: the header is read for the size, the bytes are kept as they are.

Only `tagmoe data validate` and encoding decode pixels: an import of millions of rows must not, and what is stored is
what was published, bit by bit.
"""

from __future__ import annotations

from tagmoe.data.store.record import Picture, Role
from tagmoe.pictures import read_header


def read_picture(data: bytes, role: Role = "source") -> Picture:
    """A Picture of these bytes with its upright size in pixels, from the header.

    Raises ImageError for no bytes, for what is no picture, and for more than 64 megapixels. Its message is a short
    fixed text, to be counted as the reason why a row was skipped (`Row.skipped`).
    """
    header = read_header(data)
    return Picture(data=data, width=header.width, height=header.height, role=role)


def extension(data: bytes) -> str:
    """The usual extension of a file with these bytes, without a dot. Raises ImageError as `read_picture` does."""
    return read_header(data).extension
