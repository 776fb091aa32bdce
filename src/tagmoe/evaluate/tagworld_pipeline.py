"""A pipeline on TagWorld: its pictures with their routing, and the validation of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from tagmoe.editor import run_cases
from tagmoe.evaluate.sheet import contact_sheet
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.world import Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Edits(Generic[T]):
    """images: (H, W, 3) uint8, one a case. routing: what was read of each case's routing; None where nothing was."""

    images: list[np.ndarray]
    routing: list[T] | None


def edit(
    pipeline: TagMoEPipeline,
    samples: Sequence[Sample],
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 32,
    seed: int = 0,
    read: Callable[[list[Any]], Iterable[T]] | None = None,
    routing: Literal["full", "stats"] = "full",
    on_batch: Callable[[int], None] | None = None,
) -> Edits[T]:
    """Edit (or generate) all cases with a pipeline. Case i gets the seed `seed` + i.

    read: gets the routing of a batch, an entry a denoising step, and gives something for each of its cases.
    """
    found: dict[int, T] = {}

    def keep(seeds: Sequence[int], steps_of_batch: list[Any]) -> None:
        # Cases are grouped by their number of references. The seed tells which case it is.
        if read is not None:
            found.update(zip(seeds, read(steps_of_batch), strict=True))

    editor = pipeline_editor(
        pipeline,
        steps=steps,
        cfg=cfg,
        return_routing=None if read is None else routing,
        on_routing=keep,
    )
    images = run_cases(editor, samples, batch=batch, seed=seed, on_batch=on_batch)
    return Edits(images, None if read is None else [found[seed + i] for i in range(len(samples))])


def validator(per_task: int, seed: int = 0) -> Callable[[TagMoEPipeline, int, Path], dict[str, float]]:
    """A function for training to validate with: it edits cases, writes a contact sheet, and returns their scores.

    The scores are {"success", "unchanged"}.
    """
    samples = cases(per_task, seed)

    def validate(pipeline: TagMoEPipeline, step: int, folder: Path) -> dict[str, float]:
        images = edit(pipeline, samples, seed=seed).images
        scores = score(samples, images)
        contact_sheet(samples, images, scores.verdicts, folder / f"{step:08d}.png")
        return {"success": scores.success.value, "unchanged": scores.unchanged or 0.0}

    return validate
