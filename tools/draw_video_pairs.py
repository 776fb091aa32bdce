"""Draw docs/images/video_pairs.png: pairs of frames that `tagmoe data video` keeps and drops, of rendered videos.

    python tools/draw_video_pairs.py

The videos are those of the tests (tests/support/labelled_videos.py), on grounds of TagWorld, so that every pixel is our
own. Of each kind and of each filter the first pair is shown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.labelled_videos import SAMPLING, videos
from support.made_videos import write_video

from tagmoe.factory.video.checks import FILTERS, KINDS, Limits, figures_of, kind_of
from tagmoe.factory.video.looks import Known, Signature
from tagmoe.factory.video.pairs import Pair, draw_pairs
from tagmoe.factory.video.reading import ReadLimits, open_video
from tagmoe.factory.video.shots import shots
from tagmoe.report.colours import LIGHT

FILE = Path(__file__).parents[1] / "docs" / "images" / "video_pairs.png"
SEED = 31
WIDTH, HEIGHT, GAP, CAPTION, COLUMNS = 200, 120, 4, 20, 3


def found() -> dict[str, Pair]:
    """A pair of each kind, and one that each filter drops alone, where there is one."""
    pairs: dict[str, Pair] = {}
    known, limits = Known(), Limits.of()
    with tempfile.TemporaryDirectory() as folder:
        for seed in (SEED, SEED + 1):
            for made in videos(seed, [None]):
                path = write_video(Path(folder, "a.mp4"), made.frames)
                with open_video(path, ReadLimits()) as video:
                    for pair in draw_pairs(shots(video.frames(), cuts=False), str(seed), SAMPLING):
                        signature = Signature.of(pair)
                        figures = figures_of(pair) | {"repeat": known.nearest(signature)}
                        kind = kind_of(figures)
                        broken = limits.broken(figures, kind)
                        if not broken:
                            known.add(signature)
                            pairs.setdefault(f"kept: {kind}", pair)
                        else:
                            pairs.setdefault(f"dropped: {broken[0]}", pair)
    return pairs


def main() -> None:
    """Draw the sheet."""
    pairs = found()
    names = [f"kept: {kind}" for kind in KINDS] + [f"dropped: {name}" for name in FILTERS]
    names = [name for name in names if name in pairs]
    width, height = 2 * WIDTH + 4 * GAP, HEIGHT + CAPTION
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(names) // COLUMNS) * height + GAP), LIGHT["card"])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, name in enumerate(names):
        left, top = number % COLUMNS * width + GAP, number // COLUMNS * height + GAP
        for place, still in enumerate((pairs[name].first, pairs[name].second)):
            small = Image.fromarray(np.ascontiguousarray(still.pixels)).resize((WIDTH, HEIGHT))
            sheet.paste(small, (left + place * (WIDTH + GAP), top))
        colour = LIGHT["good" if name.startswith("kept") else "bad"]
        draw.text((left, top + HEIGHT + 2), name, fill=colour, font=font)
    sheet.quantize(128).save(FILE, optimize=True)


if __name__ == "__main__":
    main()
