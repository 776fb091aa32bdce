"""What a model learned from, and whether a call is far from it: then it gives rubbish, and nothing else says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tagmoe.files.json_files import read_object
from tagmoe.pipeline.model_folder import INDEX
from tagmoe.pipeline.packaged import FOLDER as PACKAGED

WORLD = "TagWorld"
FAR_SIDE = 1.5
"""A side may differ from a trained size by this factor. [ours]"""
PHOTO_SHARE = 0.25
"""The 12 most frequent colours (of 8 levels a channel, in powers of 32) cover more than this of every drawn picture."""


def training_range(config: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]] | None:
    """(name of the pictures, sizes) that a model learned from; None where its folder does not say.

    Folders from before this was recorded say it by `known_words`: only models of TagWorld have them.
    """
    recorded = config.get("trained_on")
    if recorded:
        return str(recorded["pictures"]), [(int(width), int(height)) for width, height in recorded["sizes"]]
    if config.get("known_words") is not None:
        return WORLD, [(int(config["default_size"]),) * 2]
    return None


def is_divided_by_content(folder: Path) -> bool:
    """Whether the model in a folder cannot have been trained on TagWorld's test cases (`tagmoe.world.divide`).

    The packaged model was trained on an older stream, but the test cases leave out the pairs that it saw. Raises
    CheckpointError for a folder without a readable model_index.json.
    """
    if folder.resolve() == PACKAGED.resolve():
        return True
    recorded = read_object(folder / INDEX).get("trained_on") or {}
    return bool(recorded.get("divide") == "content")


def far_from_training(
    config: Mapping[str, Any], references: Sequence[PIL.Image.Image], size: tuple[int, int]
) -> str | None:
    """One sentence when a call is far from what the model learned from, else None. size: (width, height) of the output.

    Far are: a side that no trained size has within a factor of 1.5, and for a model of TagWorld a reference that is
    larger than that or has the many colours of a photograph.
    """
    known = training_range(config)
    if known is None:
        return None
    pictures, sizes = known
    reasons = []
    if not _near(size, sizes):
        reasons.append(f"an output of {size[0]}x{size[1]}")
    if pictures == WORLD:
        for picture in references:
            if not _near(picture.size, sizes):
                reasons.append(f"a picture of {picture.width}x{picture.height}")
            elif looks_photographic(picture):
                reasons.append("a picture with the colours of a photograph")
    if not reasons:
        return None
    shown = ", ".join(f"{width}x{height}" for width, height in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    return (
        f"This model learned from pictures of {pictures} at {shown}; {' and '.join(dict.fromkeys(reasons))} is far "
        "from that, so the result may be of no use."
    )


def looks_photographic(picture: PIL.Image.Image) -> bool:
    """Whether few pixels share a colour, as in photographs; drawn pictures have large even parts."""
    values = np.asarray(picture.convert("RGB")).reshape(-1, 3) >> 3
    counts = np.unique(values.astype(np.int64) @ [1, 32, 1024], return_counts=True)[1]
    return bool(np.sort(counts)[-12:].sum() < PHOTO_SHARE * len(values))


def _near(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> bool:
    return any(
        max(abs(math.log(side / known)) for side, known in zip(size, trained, strict=True)) <= math.log(FAR_SIDE)
        for trained in sizes
    )
