"""Draw the gallery of the packaged model's failures, by task: docs/results/failures.md and its pictures.

    python tools/measure_packaged.py --keep runs/packaged
    python tools/draw_failures.py [--keep runs/packaged]

Of each task the first failures in the order of the cases, at most three; none is chosen by how it looks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tagmoe.evaluate.tagworld import cases
from tagmoe.report.colours import LIGHT
from tagmoe.world import TASKS, Sample, Verdict, judge

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SHOWN = 3
TILE, GAP, CAPTION, LABEL = 96, 6, 46, 132
PAPER, INK, BAD, SOFT = (LIGHT[name] for name in ("card", "ink", "bad", "soft"))


class Failure(NamedTuple):
    """A case, its output (64, 64, 3) uint8, and what is wrong with it."""

    case: Sample
    image: np.ndarray
    verdict: Verdict


def main() -> None:
    """Judge the kept edits, draw two sheets, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, default=Path("runs/packaged"), help="folder of the edits")
    options = parser.parse_args()
    data = json.loads((RESULTS / "packaged.json").read_text(encoding="utf-8"))
    per_task = data["tasks"]["add"]["n"] // len(data["seeds"])
    found: dict[str, list[Failure]] = {task: [] for task in TASKS}
    for seed in (row["seed"] for row in data["seeds"]):
        with np.load(options.keep / f"seed-{seed}-{per_task}.npz") as file:
            images = file["images"]
        for case, image in zip(cases(per_task, seed), images, strict=True):
            if len(found[case.task]) < SHOWN and not (verdict := judge(case, image)).success:
                found[case.task].append(Failure(case, image, verdict))
    by_success = sorted(TASKS, key=lambda task: data["tasks"][task]["success"]["value"])
    half = -(-len(by_success) // 2)
    for name, tasks in (("failures-1", by_success[:half]), ("failures-2", by_success[half:])):
        sheet(tasks, found, data).save(RESULTS / f"{name}.png", optimize=True)
    (RESULTS / "failures.md").write_text(page(data, by_success, found), encoding="utf-8")


def sheet(tasks: list[str], found: dict[str, list[Failure]], data: dict) -> Image.Image:
    """A row a task: its name and score, then source, output and target of each failure."""
    block, height = 3 * TILE + 4 * GAP, TILE + CAPTION
    image = Image.new("RGB", (LABEL + SHOWN * (block + GAP), len(tasks) * height + GAP), PAPER)
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=11)
    for row, task in enumerate(tasks):
        top = GAP + row * height
        score = data["tasks"][task]["success"]
        draw.text((GAP, top + 4), task, fill=INK, font=font)
        draw.text((GAP, top + 24), f"{score['value']:.2f} of {score['n']}\nsucceed", fill=SOFT, font=small)
        for column, failure in enumerate(found[task]):
            left = LABEL + column * (block + GAP)
            pictures = [*(failure.case.sources or (None,)), failure.image, failure.case.target]
            for place, picture in enumerate(pictures):
                at = (left + place * (TILE + GAP), top)
                if picture is not None:
                    image.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), at)
            draw.text((left, top + TILE + 1), fit(failure.case.instruction, block, small), fill=INK, font=small)
            reason = failure.verdict.reasons[0]
            draw.text((left, top + TILE + 15), fit(reason, block, small), fill=BAD, font=small)
    return image


def fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in two lines at most, each as wide as its pictures."""
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def page(data: dict, tasks: list[str], found: dict[str, list[Failure]]) -> str:
    """The Markdown around the two sheets."""
    score = data["success"]
    whole = [task for task in tasks if not found[task]]
    lines = [
        "# Where the packaged model fails",
        "",
        "<!-- written by tools/draw_failures.py -->",
        f"The packaged model gets {score['value']:.1%} of {score['n']} test cases right "
        f"([{score['low']:.1%}, {score['high']:.1%}]; [scores](packaged.md)). Here are failures of every task, the "
        f"weakest tasks first: the first {SHOWN} at most of each, in the order of the cases, not chosen by how they "
        "look.",
        "",
        "Each group is source, output and target, left to right (text to image has no source); below stand the "
        "instruction and, in red, the first thing that the judge found wrong.",
        "",
        "![Rows of small pictures, one row a task: source, output and target of up to three failed edits, with the "
        "instruction and the fault below each](failures-1.png)",
        "",
        "![The same for the stronger half of the tasks](failures-2.png)",
    ]
    if whole:
        lines += ["", f"No failure among {data['tasks'][whole[0]]['n']} cases each: {', '.join(whole)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
