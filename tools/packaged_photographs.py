"""Photographs that packages ship, with captions and licences: roots of `tools/make_packaged_pairs.py`.

Those of scikit-image, scikit-learn and matplotlib are installed with the development environment; those of the archive
of face_recognition and of Debian's opencv-doc lie where tests/real.txt says.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw

from tagmoe.pictures import load_image

CC0, PUBLIC = "CC0-1.0", "LicenseRef-public-domain"
INSTALLED = {
    "skimage.data": {
        "astronaut.png": ("an astronaut", PUBLIC),
        "brick.png": ("a brick wall", CC0),
        "camera.png": ("a photographer", CC0),
        "chelsea.png": ("a cat", CC0),
        "clock_motion.png": ("a clock", CC0),
        "coffee.png": ("a cup of coffee", CC0),
        "coins.png": ("ancient coins", PUBLIC),
        "grass.png": ("some grass", CC0),
        "gravel.png": ("some gravel", CC0),
        "hubble_deep_field.jpg": ("many galaxies", PUBLIC),
        "ihc.png": ("stained tissue", CC0),
        "moon.png": ("the moon", PUBLIC),
        "motorcycle_left.png": ("a motorcycle", CC0),
        "motorcycle_right.png": ("a motorcycle", CC0),
        "retina.jpg": ("a retina", CC0),
        "rocket.jpg": ("a rocket", CC0),
    },
    "sklearn.datasets.images": {
        "china.jpg": ("a Chinese palace", "CC-BY-2.0"),
        "flower.jpg": ("a flower", "CC-BY-2.0"),
    },
    "matplotlib.mpl-data.sample_data": {"grace_hopper.jpg": ("a woman in uniform", PUBLIC)},
}
"""Package -> file -> caption and licence."""
OF_ARCHIVE = ("biden", "obama", "obama2", "obama3", "obama_partial_face", "obama_partial_face2")
PORTRAIT = ("a man in a suit", PUBLIC)
OF_OPENCV = {
    "data/aero1.jpg": "a town from above",
    "data/aloeL.jpg": "an aloe",
    "data/apple.jpg": "an apple",
    "data/baboon.jpg": "a baboon",
    "data/board.jpg": "a circuit board",
    "data/building.jpg": "an office building",
    "data/butterfly.jpg": "a butterfly",
    "data/chicky_512.png": "a dog",
    "data/fruits.jpg": "some fruit",
    "data/graf1.png": "a painted wall",
    "data/home.jpg": "a yellow house",
    "data/leuvenA.jpg": "some old houses",
    "data/messi5.jpg": "a footballer",
    "data/orange.jpg": "an orange",
    "data/squirrel_cls.jpg": "a squirrel",
    "data/stuff.jpg": "some small things",
    "alphamat/input_images/plant.jpg": "a potted plant",
    "hfs/data/000.jpg": "a robin",
    "reg/home.png": "a brick house",
    "text/scenetext01.jpg": "a parking sign",
    "text/scenetext05.jpg": "a yellow barrier",
}
FREE = ("chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg", "coins.png")
"""Without rights reserved, and of no person: what a picture of the documentation may show."""
Outlines = tuple[tuple[str, tuple[float, ...]], ...]
OUTLINES: dict[str, Outlines] = {
    "coffee.png": (("ellipse", (78, 74, 480, 386)), ("ellipse", (172, 18, 408, 230))),
    "rocket.jpg": (("polygon", (311, 150, 320, 127, 330, 150, 332, 406, 309, 406)),),
}
"""Things by hand, where a mask may not come from a network: the cup and the rocket."""
COIN: Outlines = (("ellipse", (315, 156, 380, 217)),)
"""One of the coins."""


@dataclass(frozen=True)
class Photo:
    """A photograph. name: package and file."""

    name: str
    image: Image.Image
    caption: str
    licence: str


def photographs(real: Path | None = None) -> Iterator[Photo]:
    """All that are there. real: the folder of tests/real.txt."""
    for package, files in INSTALLED.items():
        top, *parts = package.split(".")
        for file, (caption, licence) in files.items():
            path = Path(str(resources.files(top).joinpath(*parts, file)))
            yield Photo(f"{top} {file}", load_image(path), caption, licence)
    if real is None:
        return
    for archive in sorted(real.glob("face_recognition-*.tar.gz"))[:1]:
        with tarfile.open(archive) as read:
            for member in read:
                name = Path(member.name).stem
                if name in OF_ARCHIVE and "/test_images/" in member.name and member.name.endswith(".jpg"):
                    file_of = read.extractfile(member)
                    assert file_of is not None
                    yield Photo(f"face_recognition {name}.jpg", load_image(file_of.read()), *PORTRAIT)
    for file, caption in OF_OPENCV.items():
        path = real / "opencv-doc" / file
        if path.is_file():
            yield Photo(f"opencv-doc {Path(file).name}", load_image(path), caption, "LicenseRef-opencv-doc")


def outlined(photo: Photo, outlines: Outlines = ()) -> Image.Image | None:
    """The mask of a photograph's thing, drawn by hand; None where it has no outline."""
    outlines = outlines or OUTLINES.get(photo.name.split()[-1], ())
    if not outlines:
        return None
    mask = Image.new("L", photo.image.size)
    for kind, coordinates in outlines:
        getattr(ImageDraw.Draw(mask), kind)(coordinates, fill=255)
    return mask
