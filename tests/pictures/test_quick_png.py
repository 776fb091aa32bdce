"""The quick PNG is a PNG: lossless, with right sums, of any size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tagmoe.pictures import load_image, quick_png, read_header


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 20), (64, 64)])
def test_it_is_lossless_and_every_reader_takes_it(size: tuple[int, int], mode: str) -> None:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    for picture in (noise, noise.resize((3 * size[0], 2 * size[1]), Image.Resampling.BICUBIC)):
        data = quick_png(picture)
        # Pillow's `verify` reads every sum of the file.
        with Image.open(io.BytesIO(data)) as opened:
            opened.verify()
        with Image.open(io.BytesIO(data)) as opened:
            assert (opened.mode, opened.size, opened.tobytes()) == (mode, picture.size, picture.tobytes())
        assert read_header(data) == (*picture.size, "png")
        assert load_image(data).tobytes() == picture.convert("RGB").tobytes()


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="The mode is RGBA; give RGB or L"):
        quick_png(Image.new("RGBA", (2, 2)))
