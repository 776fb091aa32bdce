"""An editor: anything that makes a picture from an instruction, reference pictures and a seed.

Evaluation, synthesis, serving and the study take any editor: a pipeline, a server, a folder of finished pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

Picture = Image.Image | np.ndarray
"""What an editor may give: a PIL image, or (H, W, 3) uint8."""
T = TypeVar("T")


class Editor(Protocol):
    """Edits a batch at a time. All requests of one call have the same number of references (none: generate)."""

    def __call__(
        self, instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        """One picture for each instruction, its references and its seed."""
        ...


def in_batches(
    references: Sequence[int],
    ask: Callable[[list[int]], Sequence[T]],
    *,
    batch: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[T]:
    """The answers to all requests in their order. references: how many pictures each has.

    ask: gets the places of one call, at most `batch` requests with the same number of references, and gives an answer
    for each. on_batch: called with the number of requests done.
    """
    done: dict[int, T] = {}
    for count in sorted(set(references)):
        alike = [place for place, own in enumerate(references) if own == count]
        for start in range(0, len(alike), batch):
            places = alike[start : start + batch]
            done |= zip(places, ask(places), strict=True)
            if on_batch is not None:
                on_batch(len(done))
    return [done[place] for place in range(len(references))]


def as_array(picture: Picture) -> np.ndarray:
    """The picture as (H, W, 3) uint8."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture.convert("RGB"))
