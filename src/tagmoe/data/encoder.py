"""The protocol of the model that encodes a store, and how pictures are brought to the sizes that it encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from tagmoe.data.order.rows import Size


class Encoder(Protocol):
    """The model that encodes.

    sizes: (width, height) of the buckets. multiple: side of a token in pixels; all sizes are multiples of it.
    """

    @property
    def sizes(self) -> Sequence[Size]: ...

    @property
    def multiple(self) -> int: ...

    def decode(self, data: bytes) -> Image.Image:
        """The upright RGB picture of encoded bytes. Raises ImageError."""
        ...

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Normalised latents (B, z, h, w), float32, of B RGB pictures of one size."""
        ...

    @property
    def sees_pictures(self) -> bool:
        """Whether the embedding of a text depends on the references beside it."""
        ...

    def encode_texts(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] | None = None
    ) -> list[np.ndarray]:
        """The embedding (S, D), float32, of each text, beside its pictures if the encoder sees them.

        Raises UsageError when a text cannot be encoded.
        """
        ...

    def is_cut(self, text: str) -> bool:
        """Whether a text that can be encoded is too long, so that only its beginning is."""
        ...


def nearest_size(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """The (width, height) in `sizes` whose aspect is nearest to that of the picture.

    Of two aspects the narrower wins, and of two sizes with one aspect that of the nearest area.
    """

    def distance(size: Size) -> tuple[float, float, int, Size]:
        aspect = size[0] / size[1]
        return abs(width / height - aspect), aspect, abs(width * height - size[0] * size[1]), size

    return min(sizes, key=distance)


def fit(picture: Image.Image, size: Size, method: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """Crop a picture in the middle to the aspect of `size`, and scale it to `size`."""
    if picture.size == size:
        return picture
    scale = min(picture.width / size[0], picture.height / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return picture.resize(size, method, box=(left, top, left + width, top + height))


def mask_cells(mask: Image.Image, size: Size, multiple: int) -> np.ndarray:
    """(rows, columns) of bool: the cells of the token grid with a white pixel. The mask is cropped like the target."""
    pixels: np.ndarray = np.asarray(fit(mask, size, Image.Resampling.BOX)) > 0
    rows, columns = size[1] // multiple, size[0] // multiple
    return np.asarray(pixels.reshape(rows, multiple, columns, multiple).any(axis=(1, 3)))
