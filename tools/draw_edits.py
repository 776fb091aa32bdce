"""Draw the README's pictures: example scenes to edit, and a sheet of real edits by the packaged model.

    python tools/draw_edits.py

The cases are the first of each task in the test split, which holds no pair that the model was trained on. They were not
chosen by their result.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tagmoe import load_packaged
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.evaluate.tagworld_pipeline import edit
from tagmoe.world import Background, Face, Item, Scene, render

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEED = 11
TASKS = (
    "wear", "recolour", "replace", "add", "remove", "move", "swap", "multi_recolour",
    "background", "style", "light", "viewpoint", "expression", "subject", "structure", "style_ref",
)  # fmt: skip
COLUMNS, TILE, GAP, CAPTION = 4, 128, 10, 40
SCENE = Scene(
    (Item("star", "red"), None, Item("circle", "yellow", "striped"), Item("heart", "purple")),
    Background("sky blue", "plain"),
)
PERSON = Scene((Face("tan", "ginger"), None, None, Item("star", "yellow")), Background("mint", "checked"))


def main() -> None:
    """Write scene.png, person.png and edits.png."""
    IMAGES.mkdir(exist_ok=True)
    Image.fromarray(render(SCENE)).save(IMAGES / "scene.png")
    Image.fromarray(render(PERSON)).save(IMAGES / "person.png")
    samples = cases(1, SEED, tasks=TASKS)
    images = edit(load_packaged(), samples, seed=SEED).images
    verdicts = score(samples, images).verdicts
    width, height = 2 * TILE + GAP + 14, TILE + CAPTION + GAP
    rows = -(-len(samples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, (case, image, verdict) in enumerate(zip(samples, images, verdicts, strict=True)):
        left, top = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        for offset, picture in ((0, case.sources[0]), (TILE + 4, image)):
            sheet.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), (left + offset, top))
            draw.rectangle((left + offset - 1, top - 1, left + offset + TILE, top + TILE), outline="#cccccc")
        colour = "#1a7f4b" if verdict.success else "#b3402e"
        lines = _wrap(case.instruction, 2 * TILE, font)
        draw.text((left, top + TILE + 3), "\n".join(lines), fill=colour, font=font, spacing=2)
        print(f"{case.task}: {'right' if verdict.success else '; '.join(verdict.reasons)}")
    sheet.save(IMAGES / "edits.png", optimize=True)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines[:2]


if __name__ == "__main__":
    main()
