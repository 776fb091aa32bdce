"""Folders of grounds and cut-outs, as PhotoWorld is composed of, with the structure of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from support.made_pictures import scene

NOUNS = ("Apple", "a red ball", "Shoes. Two of them.", "An old lamp", "the Moon", "Cup", "A chair (wood)", "boat")


def cut_out(seed: int, side: int = 72) -> Image.Image:
    """A textured thing in one strong colour, on a transparent ground; each seed has another outline."""
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle = np.arctan2(rows, columns)
    inside = np.hypot(rows, columns) < 0.62 + 0.2 * np.sin((2 + seed) * angle + seed)
    colour = np.array([(230, 40, 40), (240, 220, 60), (50, 60, 220), (250, 250, 250), (20, 20, 20), (40, 200, 60)])
    pixels = 0.25 * scene(side, side, 500 + seed) * [1.0, 0.9, 1.1] + 0.7 * colour[seed % 6]
    alpha = np.where(inside, 255, 0)
    return Image.fromarray(np.dstack([pixels, alpha]).astype(np.uint8), "RGBA")


def folders(path: Path, grounds: int = 6, cutouts: int = 8) -> tuple[Path, Path]:
    """(folder of grounds, folder of cut-outs with captions) below `path`."""
    for name in ("grounds", "cutouts"):
        (path / name).mkdir(parents=True)
    for number in range(grounds):
        Image.fromarray(scene(96, 120, number)).save(path / "grounds" / f"ground {number}.png", compress_level=1)
    for number in range(cutouts):
        file = path / "cutouts" / f"thing_{number}.png"
        cut_out(number).save(file, compress_level=1)
        if number < len(NOUNS):
            file.with_suffix(".txt").write_text(f"{NOUNS[number]}\nde=etwas\n")
    return path / "grounds", path / "cutouts"
