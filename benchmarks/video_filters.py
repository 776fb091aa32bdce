"""How well each filter of `tagmoe data video` tells good pairs of frames from bad ones, on videos with known truth.

    python benchmarks/video_filters.py [--json] [--seeds 12]

Videos are rendered, encoded with H.264 and read again: a camera that pans, zooms and turns, things that move by
themselves, cuts, dissolves, flashes, blur, changing light. Half of the grounds are mosaics of TagWorld scenes, half are
photographs. Of each filter the share of the faulty pairs that it drops (recall), and of the pairs that it drops the
share that has its fault, among these and the good ones (precision). What is close to a limit is left out: nobody can
say what is right there. Limits were set on other seeds. Intervals are 95 %, over
videos; where none failed, Wilson's. Needs scikit-image.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
from figures import Figure, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.labelled_videos import FAULTS, Labelled, Row, begins_of, rows_of, videos
from support.made_videos import write_video

from tagmoe.factory.video.checks import FILTERS, Limits
from tagmoe.factory.video.looks import Known
from tagmoe.intervals import Bootstrap, wilson
from tagmoe.pictures import load_image

PHOTOGRAPHS = ("coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png", "hubble_deep_field.jpg", "gravel.png")
"""Of scikit-image; in the public domain or CC0."""
FIRST_SEED = 5000
LIMITS = Limits.of()
Judged = tuple[str, bool, bool]
"""A video, whether something should be dropped, and whether it was."""


def measure(seeds: int = 12) -> Sequence[Figure]:
    """Recall and precision of each filter and of all together, with intervals over videos."""
    folder = Path(skimage.data.__file__).parent
    photographs = [np.asarray(load_image(folder / name)) for name in PHOTOGRAPHS]
    rows: list[tuple[str, Row]] = []
    found: dict[str, list[Judged]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            known = Known()
            for made in videos(seed, photographs if seed % 2 else [None]):
                name = f"{seed} {made.name}"
                path = write_video(Path(place, "a.mp4"), made.frames)
                some = list(rows_of(made, path, known))
                rows += [(name, row) for row in some]
                found["repeat"] += [(name, False, "repeat" in _broken(row)) for row in some if row.labels["good"]]
                found["cuts"] += _cuts(name, made, path)
                if made.name.startswith("cuts"):
                    rows += [(f"{name} uncut", row) for row in rows_of(made, path, cuts=False)]
                if made.name in ("away", "camera", "swing"):
                    found["repeat"] += _again(name, made, Path(place, "b.mp4"), known)
            print(f"seed {seed}: {len(rows)} pairs", file=sys.stderr)
    for name in FAULTS:
        found[f"{name} (any filter)"] = [
            (video, True, bool(_broken(row, but="repeat"))) for video, row in rows if row.labels.get(name)
        ]
        found[name] = [
            (video, bool(row.labels.get(name)), name in _broken(row))
            for video, row in rows
            if row.labels.get(name) or row.labels["good"]
        ]
    whole = [(video, row) for video, row in rows if row.labels["good"] is not None and "uncut" not in video]
    found["kept"] = [(video, bool(row.labels["good"]), not _broken(row, but="repeat")) for video, row in whole]
    good = [(video, row) for video, row in whole if row.labels["good"] and not _broken(row, but="repeat")]
    kinds = [(video, row) for video, row in good if row.labels["view"] is not None]
    found["view"] = [(video, bool(row.labels["view"]), row.kind == "view") for video, row in kinds]
    left = [(video, row) for video, row in kinds if not row.labels["view"] and row.labels["away"] is not None]
    found["action"] = [(video, bool(row.labels["away"]), row.kind == "action") for video, row in left]
    order = ["cuts", *(name for name in FILTERS if name in found), "kept", "view", "action"]
    figures = [figure for name in order for figure in _figures(name, found[name])]
    return figures + [
        figure for name in FAULTS for figure in _figures(f"{name} (any filter)", found[f"{name} (any filter)"])[:1]
    ]


def _broken(row: Row, but: str = "") -> list[str]:
    return [name for name in LIMITS.broken(row.figures, row.kind) if name != but]


def _cuts(name: str, made: Labelled, path: Path) -> list[Judged]:
    """Each frame that begins a shot by the truth or by what was found; a dissolve is left out."""
    truth = [first for first in made.begins[1:] if first not in made.slow]
    given = [first for first in begins_of(path)[1:] if not made.slow & set(range(first - 2, first + 3))]
    missed = [(name, True, _is_near(one, given)) for one in truth]
    return missed + [(name, False, True) for one in given if not _is_near(one, truth)]


def _is_near(one: int, others: Sequence[int]) -> bool:
    return any(abs(one - other) <= 1 for other in others)


def _again(name: str, made: Labelled, path: Path, known: Known) -> list[Judged]:
    """The pairs of a copy of the video in other quality: all of them are repeats."""
    write_video(path, made.frames, crf="30")
    return [(f"{name} again", True, "repeat" in _broken(row)) for row in rows_of(replace(made), path, known)]


def _figures(name: str, judged: Sequence[Judged]) -> list[Figure]:
    videos_of = sorted({video for video, _, _ in judged})
    place = {video: number for number, video in enumerate(videos_of)}
    counts = np.zeros((len(videos_of), 3))  # right, missed, false
    for video, should, did in judged:
        if should or did:
            counts[place[video], 0 if should and did else 1 if should else 2] += 1
    clean = sum(not should for _, should, _ in judged)
    draws = Bootstrap(2000)
    figures = []
    for title, other in (("recall", 1), ("precision", 2)):
        right, rest = counts[:, 0], counts[:, other]
        of = int(right.sum() + rest.sum())
        if not of:
            continue
        value = right.sum() / of
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = draws.weights(len(counts)) @ np.stack([right, right + rest], axis=1)
            shares = drawn[:, 0] / drawn[:, 1]
        interval = draws.interval(value, shares, int((right + rest > 0).sum()))
        if of == right.sum():
            # No draw of videos can say more than that none failed.
            interval = wilson(interval.n, interval.n)
        bounds = "" if interval.low is None else f"; 95 % from {interval.low:.3f} to {interval.high:.3f}"
        note = f"{int(right.sum())} of {of} in {interval.n} videos{bounds}; {clean} good ones"
        figures.append(Figure(f"{name} {title}", value, "share", None, True, of, note))
    return figures


if __name__ == "__main__":
    report(measure, {"seeds": {"type": int, "default": 12, "help": "seeds, each with a video of every family"}})
