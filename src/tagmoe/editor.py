"""An editor: anything that makes a picture from an instruction, reference pictures and a seed.

Evaluation, synthesis, serving and the study take any editor: a pipeline, a server, a folder of finished pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

Picture = Image.Image | np.ndarray
"""What an editor may give: a PIL image, or (H, W, 3) uint8."""


class Editor(Protocol):
    """Edits a batch at a time. All requests of one call have the same number of references (none: generate)."""

    def __call__(
        self, instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        """One picture for each instruction, its references and its seed."""
        ...


def run_editor(
    editor: Editor,
    instructions: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
    seeds: Sequence[int],
    *,
    batch: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """The pictures of all requests in their order, (H, W, 3) uint8. on_batch is told how many requests are done."""
    done: dict[int, np.ndarray] = {}
    for places in batches([len(references) for references in images], batch):
        outputs = editor([instructions[i] for i in places], [images[i] for i in places], [seeds[i] for i in places])
        done |= {place: as_array(output) for place, output in zip(places, outputs, strict=True)}
        if on_batch is not None:
            on_batch(len(done))
    return [done[place] for place in range(len(instructions))]


def batches(references: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Places of requests that fit one call, by the number of references of each request, in order."""
    for count in sorted(set(references)):
        places = [place for place, own in enumerate(references) if own == count]
        for start in range(0, len(places), batch):
            yield places[start : start + batch]


def as_array(picture: Picture) -> np.ndarray:
    """The picture as (H, W, 3) uint8."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture.convert("RGB"))
