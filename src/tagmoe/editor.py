"""An editor: anything that makes a picture from an instruction, reference pictures and a seed.

Evaluation, synthesis, serving and the study take any editor: a pipeline, a server, a folder of finished pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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


class Case(Protocol):
    """What an editor is asked for: an instruction, and its reference pictures as (H, W, 3) uint8."""

    @property
    def instruction(self) -> str: ...
    @property
    def sources(self) -> Sequence[np.ndarray]: ...


def in_batches(
    references: Sequence[int], ask: Callable[[list[int]], Sequence[T]], *, batch: int, threads: int = 1
) -> Iterator[tuple[list[int], Sequence[T]]]:
    """Ask for all requests, and yield the places and the answers of each call when it is done.

    references: how many pictures each request has. ask: gets the places of one call, at most `batch` requests with the
    same number of references, and gives an answer for each. threads: calls at the same time, for an `ask` that mostly
    waits; with more than 1 calls end in any order. When the caller stops, no further call begins.
    """
    calls = [
        alike[start : start + batch]
        for count in sorted(set(references))
        for alike in [[place for place, own in enumerate(references) if own == count]]
        for start in range(0, len(alike), batch)
    ]
    if threads == 1:
        yield from ((places, ask(places)) for places in calls)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = {pool.submit(ask, places): places for places in calls}
        for done in as_completed(waiting):
            yield waiting.pop(done), done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def as_array(picture: Picture) -> np.ndarray:
    """The picture as (H, W, 3) uint8."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture.convert("RGB"))


def run_cases(
    editor: Editor,
    cases: Sequence[Case],
    *,
    batch: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """The pictures of all cases by any editor, (H, W, 3) uint8; case i gets the seed `seed` + i whatever the batch.

    on_batch: called with the number of finished cases.
    """

    def ask(places: list[int]) -> list[np.ndarray]:
        asked = [cases[i] for i in places]
        sources = [[Image.fromarray(source) for source in case.sources] for case in asked]
        outputs = editor([case.instruction for case in asked], sources, [seed + i for i in places])
        return [as_array(output) for output in outputs]

    images: dict[int, np.ndarray] = {}
    for places, pictures in in_batches([len(case.sources) for case in cases], ask, batch=batch):
        images |= zip(places, pictures, strict=True)
        if on_batch is not None:
            on_batch(len(images))
    return [images[i] for i in range(len(cases))]
