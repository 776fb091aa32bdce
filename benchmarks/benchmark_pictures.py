"""How often a changed picture of a benchmark is known, and how often another photograph is taken for one.

    python benchmarks/benchmark_pictures.py [--json] [--photographs FOLDER]

Each photograph is cut into tiles, which are the pictures. Half of the tiles are the benchmark. Each of them
is changed in every way and must be known; the other half must not be. By default the photographs are those that
matplotlib and scikit-learn ship; neighbouring tiles of one photograph are the hardest pictures to tell apart.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from figures import Figure, report
from PIL import Image

from tagmoe.data.sources.benchmark_pictures import benchmark_pictures
from tagmoe.data.store.record import Picture
from tagmoe.errors import ImageError
from tagmoe.intervals import wilson
from tagmoe.pictures import load_image

TILES = 3
"""Tiles along each side of a photograph."""
SMALLEST = 96
"""Pixels of the shorter side of a tile; smaller ones are left out."""


def measure(photographs: str | None = None) -> Sequence[Figure]:
    """Recall by change, and the share of other photographs that are taken for one of the benchmark."""
    tiles = [tile for image in _photographs(photographs) for tile in _tiles(image)]
    dice = np.random.default_rng(0)
    order = dice.permutation(len(tiles))
    ours, others = order[: len(tiles) // 2], order[len(tiles) // 2 :]
    with tempfile.TemporaryDirectory(prefix="tagmoe-benchmark-") as name:
        for number in ours:
            (Path(name) / f"{number}.png").write_bytes(_saved(tiles[number]))
        refused = benchmark_pictures(Path(name))
    found = []
    for change, make in CHANGES.items():
        known = sum(refused.has_like(Picture.of(make(tiles[number], dice))) for number in ours)
        wanted = 0.95 if change != "cropped by 20 %" else None
        found.append(_share(f"known_{change.replace(' ', '_')}", known, len(ours), wanted, at_least=True))
    alarms = sum(refused.has_like(Picture.of(_saved(tiles[number]))) for number in others)
    found.append(_share("false_alarms", alarms, len(others), 0.02, at_least=False))
    return found


def _share(name: str, count: int, of: int, wanted: float | None, *, at_least: bool) -> Figure:
    interval = wilson(count, of)
    note = f"{count} of {of}; 95 % from {interval.low:.3f} to {interval.high:.3f}"
    return Figure(name, count / of, "share", wanted, at_least, note=note)


def _photographs(folder: str | None) -> Iterator[Image.Image]:
    if folder is None:
        import matplotlib
        from sklearn.datasets import load_sample_images

        yield load_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
        yield from map(load_image, load_sample_images().images)
        return
    for file in sorted(Path(folder).iterdir()):
        try:
            yield load_image(file)
        except ImageError:
            continue


def _tiles(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.width // TILES, image.height // TILES
    if min(width, height) < SMALLEST:
        yield image
        return
    for x in range(TILES):
        for y in range(TILES):
            tile = image.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            # Sky and paper: such a tile shows nothing by which anything could know it.
            if np.asarray(tile.convert("L"), np.float32).std() > 16:
                yield tile


def _saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _cropped(image: Image.Image, share: float, dice: np.random.Generator) -> Image.Image:
    width, height = (round(side * (1 - share)) for side in image.size)
    left, top = (round(room * dice.random()) for room in (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height))


def _all(image: Image.Image, dice: np.random.Generator) -> bytes:
    return _saved(_cropped(image, 0.06, dice).resize((160, 160)), "WEBP", quality=50)


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "jpeg 30": lambda image, _: _saved(image, "JPEG", quality=30),
    "webp 50": lambda image, _: _saved(image, "WEBP", quality=50),
    "half the size": lambda image, _: _saved(image.resize((image.width // 2, image.height // 2))),
    "twice the size": lambda image, _: _saved(image.resize((image.width * 2, image.height * 2))),
    "cropped by 5 %": lambda image, dice: _saved(_cropped(image, 0.05, dice)),
    "cropped by 10 %": lambda image, dice: _saved(_cropped(image, 0.1, dice)),
    "cropped by 20 %": lambda image, dice: _saved(_cropped(image, 0.2, dice)),
    "cropped scaled and encoded": _all,
}


if __name__ == "__main__":
    report(measure, {"photographs": {"help": "folder of photographs, by default those of installed packages"}})
