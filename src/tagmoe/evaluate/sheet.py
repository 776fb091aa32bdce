"""A contact sheet for people who watch a training run: source, result, target, and the oracle's verdict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tagmoe.report.colours import LIGHT
from tagmoe.world import SIZE, Sample, Verdict

COLUMNS = 4
GAP = 6
CAPTION = 26
PAPER, INK, GOOD, BAD = (LIGHT[name] for name in ("card", "ink", "good", "bad"))


def contact_sheet(
    samples: Sequence[Sample], images: Sequence[np.ndarray], verdicts: Sequence[Verdict], path: Path
) -> None:
    """Write a PNG of all cases, whole or not at all: source | result | target, with task and verdict below."""
    width, height = 3 * SIZE + 2 * GAP, SIZE + CAPTION
    rows = -(-len(samples) // COLUMNS)
    columns = min(COLUMNS, len(samples))
    sheet = Image.new("RGB", (columns * (width + 2 * GAP), rows * (height + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for number, (case, image, verdict) in enumerate(zip(samples, images, verdicts, strict=True)):
        left = GAP + (number % columns) * (width + 2 * GAP)
        top = GAP + (number // columns) * (height + GAP)
        pictures = [case.sources[0] if case.sources else None, image, case.target]
        for position, picture in enumerate(pictures):
            if picture is not None:
                tile = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + position * (SIZE + GAP), top))
        text = f"{case.task}: {'ok' if verdict.success else 'failed'}"
        if case.is_edit:
            text += f", {verdict.unchanged:.0%} unchanged"
        draw.text((left, top + SIZE + 1), text, fill=GOOD if verdict.success else BAD, font=font)
        draw.text((left, top + SIZE + 13), _fit(case.instruction, width, font), fill=INK, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    sheet.save(partial, format="PNG")
    os.replace(partial, path)


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
