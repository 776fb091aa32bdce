"""Records of a pair of frames: the edit from the earlier to the later one, and the edit back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from tagmoe.data.inverse.invert import inverse_id
from tagmoe.data.store.record import Picture, Record, Role, TagProvenance, record_id
from tagmoe.factory.video.checks import Kind
from tagmoe.factory.video.pairs import Pair
from tagmoe.pictures import png_of
from tagmoe.tags import TaskDescriptor

TASK: dict[Kind, str] = {"view": "viewpoint", "pose": "pose", "action": "action"}
"""The native task of each kind."""
_MOVED = ("local editing", "pose editing", "background preservation", "identity preservation", "style preservation")
TAGS: dict[Kind, tuple[str, ...]] = {
    "view": ("viewpoint editing", "identity preservation", "style preservation"),
    "pose": _MOVED,
    "action": _MOVED,
}
"""The tags of each kind. Whether a face stays is not known here; `tagmoe data annotate` may say it."""
ANNOTATOR = "video"


@dataclass(frozen=True)
class Origin:
    """Where a pair comes from. name: of the file. digest: SHA-256 of the file."""

    name: str
    digest: str
    dataset: str
    licence: str


def records_of(pair: Pair, kind: Kind, figures: Mapping[str, float], origin: Origin) -> tuple[Record, Record]:
    """The edit and its inverse. Both have the root of their video, so that no video is on both sides of a split.

    Every measured figure is in `quality`, the times of the frames as well. The instruction is empty until a model
    writes it.
    """
    first, second = (_picture(still.pixels) for still in (pair.first, pair.second))
    times = {"time": round(pair.first.time, 3), "end": round(pair.second.time, 3)}
    key = f"{origin.digest} {pair.first.number} {pair.second.number}"
    own = record_id(origin.dataset, key, "", "video")
    place = f"{origin.name}#t={times['time']:g},{times['end']:g}"
    tags = TaskDescriptor.from_tags(TAGS[kind]).indices
    given = TagProvenance(annotator=ANNOTATOR)
    root = root_of(origin.digest)
    forward = Record(
        id=own,
        dataset=origin.dataset,
        target=second,
        instruction="",
        licence=origin.licence,
        images=(first,),
        native_task=TASK[kind],
        quality={**figures, **times},
        origin=place,
        root=root,
        operation="video",
        tags=tags,
        tag_provenance=given,
    )
    backward = replace(
        forward,
        id=inverse_id(origin.dataset, own),
        target=first,
        images=(second,),
        parent=own,
        operation="inverse",
    )
    return forward, backward


def root_of(digest: str) -> str:
    """The root that all pairs of a video share, by which a store divides them."""
    return hashlib.sha256(f"video {digest}".encode()).hexdigest()


def _picture(pixels: np.ndarray, role: Role = "source") -> Picture:
    height, width = pixels.shape[:2]
    return Picture(png_of(Image.fromarray(pixels)), width, height, role)
