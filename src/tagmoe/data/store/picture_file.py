"""Make a Picture of encoded bytes. Only the header is read, for the size; the bytes are stored unchanged.

Pixels are decoded later, by `tagmoe data validate` and `encode`: an import of millions of rows cannot afford it.
"""

from __future__ import annotations

from tagmoe.data.store.record import Picture, Role
from tagmoe.pictures import read_header


def read_picture(data: bytes, role: Role = "source") -> Picture:
    """A Picture of these bytes with its upright size in pixels, from the header.

    Raises ImageError for empty or unreadable bytes, and for more than 64 megapixels. The message is a short fixed text,
    which serves as the reason for skipping the row (`Row.skipped`).
    """
    header = read_header(data)
    return Picture(data=data, width=header.width, height=header.height, role=role)


def extension(data: bytes) -> str:
    """The usual file extension for these bytes, without a dot. Raises ImageError for unreadable bytes."""
    return read_header(data).extension
