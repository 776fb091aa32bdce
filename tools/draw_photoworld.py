"""Draw docs/images/photoworld.jpg: one PhotoWorld pair of each task, of photographs without rights reserved alone.

    python tools/draw_photoworld.py

The grounds and cut-outs are of scikit-image's photographs that are CC0 or in the public domain: coffee, rocket,
hubble_deep_field, chelsea, grass, gravel, brick and the silhouette horse. Things are cut out by hand, by the outlines
below.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from tagmoe.photoworld import TASKS, PhotoWorld
from tagmoe.pictures import load_image
from tagmoe.report.colours import LIGHT

FOLDER = Path(skimage.data.__file__).parent
FILE = Path(__file__).parents[1] / "docs" / "images" / "photoworld.jpg"
GROUNDS = ("rocket.jpg", "hubble_deep_field.jpg", "chelsea.png", "grass.png", "gravel.png", "brick.png")
SIZE, GAP, CAPTION, COLUMNS = 128, 4, 18, 3
SEED = 4


def cut_out(name: str, *outlines: tuple[str, tuple[float, ...]]) -> Image.Image:
    """A photograph whose alpha is the union of outlines: ("ellipse" or "polygon", coordinates)."""
    picture = load_image(FOLDER / name)
    alpha = Image.new("L", picture.size)
    for kind, coordinates in outlines:
        getattr(ImageDraw.Draw(alpha), kind)(coordinates, fill=255)
    picture.putalpha(alpha)
    return picture


def cut_outs() -> dict[str, Image.Image]:
    """The things, by their captions."""
    horse = load_image(FOLDER / "horse.png")
    horse.putalpha(Image.fromarray(np.where(np.asarray(horse.convert("L")) < 128, 255, 0).astype(np.uint8)))
    return {
        "a coffee cup": cut_out("coffee.png", ("ellipse", (78, 74, 480, 386)), ("ellipse", (172, 18, 408, 230))),
        "a rocket": cut_out("rocket.jpg", ("polygon", (311, 150, 320, 127, 330, 150, 332, 406, 309, 406))),
        "a horse": horse,
    }


def main() -> None:
    """Draw the sheet."""
    with tempfile.TemporaryDirectory() as folder:
        grounds, things = Path(folder, "grounds"), Path(folder, "cutouts")
        for path in (grounds, things):
            path.mkdir()
        for name in GROUNDS:
            load_image(FOLDER / name).save(grounds / f"{Path(name).stem}.png")
        for caption, picture in cut_outs().items():
            picture.save(things / f"{caption}.png")
            (things / f"{caption}.txt").write_text(caption)
        world = PhotoWorld(grounds, things, size=SIZE, held_out=0)
        drawn = [world.sample(SEED, number, task=task) for number, task in enumerate(TASKS)]
    width, height = 3 * (SIZE + GAP) + 2 * GAP, SIZE + CAPTION
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(drawn) // COLUMNS) * height), LIGHT["card"])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for number, case in enumerate(drawn):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        mask = np.repeat(case.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        second = case.sources[1] if len(case.sources) > 1 else mask
        for place, picture in enumerate((case.sources[0], second, case.target)):
            sheet.paste(Image.fromarray(picture), (left + place * (SIZE + GAP), top))
        draw.text((left, top + SIZE + 2), f"{case.task}: {case.instruction}"[:72], fill=LIGHT["ink"], font=font)
    sheet.save(FILE, quality=82)


if __name__ == "__main__":
    main()
