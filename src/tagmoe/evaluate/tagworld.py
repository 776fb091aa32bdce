"""TagWorld as a benchmark: draw test cases, edit them, let the oracle score them (the role of paper 4.2-4.3).

Any editor can be scored: it is a function from instructions, pictures and seeds to pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from tagmoe.editor import Editor, Picture, batches, run_editor
from tagmoe.errors import UsageError
from tagmoe.evaluate.sheet import contact_sheet
from tagmoe.evaluate.tagworld_cases import cases as cases
from tagmoe.intervals import Interval, wilson
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing.case_routing import CaseRouting, record
from tagmoe.world import Sample, Verdict, judge


@dataclass(frozen=True)
class Edits:
    """images: (H, W, 3) uint8, one a case. routing: one a case when it was recorded."""

    images: list[np.ndarray]
    routing: list[CaseRouting] | None = None


@dataclass(frozen=True)
class TaskScore:
    """Shares of a task: of successes, of edits that are done whatever became of the rest, and of the rest that stayed
    (None: the whole picture is new)."""

    task: str
    n: int
    success: float
    edit_done: float
    unchanged: float | None


@dataclass(frozen=True)
class TagWorldScores:
    """Means over the cases to which a score applies; None where there is no such case.

    success is strict; edit_done is the score that was published before (`tagmoe.world.judge`). verdicts: in the order
    of the cases. held_out: success on seen and held-out phrasings, and on seen and held-out combinations of attributes.
    """

    success: Interval[float]
    edit_done: Interval[float]
    unchanged: float | None
    subject: float | None
    face: float | None
    style: float | None
    tasks: tuple[TaskScore, ...]
    held_out: dict[str, Interval[float]]
    verdicts: tuple[Verdict, ...]


def run_cases(
    editor: Editor,
    samples: Sequence[Sample],
    *,
    batch: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Edit all cases with any editor. Case i gets seed + i, so that results do not depend on the batch size.

    on_batch: called with the number of finished cases.
    """
    return run_editor(
        editor,
        [case.instruction for case in samples],
        [[Image.fromarray(source) for source in case.sources] for case in samples],
        [seed + i for i in range(len(samples))],
        batch=batch,
        on_batch=on_batch,
    )


def edit(
    pipeline: TagMoEPipeline,
    samples: Sequence[Sample],
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 32,
    seed: int = 0,
    return_routing: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Edits:
    """Edit (or generate) all cases with a pipeline. If asked, record the routing of each case."""
    recorded: list[CaseRouting] = []
    editor = pipeline_editor(
        pipeline,
        steps=steps,
        cfg=cfg,
        return_routing="full" if return_routing else None,
        on_routing=lambda _, routing: recorded.extend(record(routing)),
    )
    images = run_cases(editor, samples, batch=batch, seed=seed, on_batch=on_batch)
    if not return_routing:
        return Edits(images)
    order = [i for indices in batches([len(case.sources) for case in samples], batch) for i in indices]
    by_case = dict(zip(order, recorded, strict=True))
    return Edits(images, [by_case[i] for i in range(len(samples))])


def score(samples: Sequence[Sample], images: Sequence[Picture]) -> TagWorldScores:
    """Judge every picture against its case. Raises UsageError when there are no cases."""
    if not samples:
        raise UsageError("There are no cases to score; give at least one.")
    verdicts = tuple(judge(case, image) for case, image in zip(samples, images, strict=True))
    pairs = list(zip(samples, verdicts, strict=True))
    return TagWorldScores(
        success=_share([v.success for v in verdicts]),
        edit_done=_share([v.edit_done for v in verdicts]),
        unchanged=_unchanged(pairs),
        subject=_mean([v.subject for v in verdicts]),
        face=_mean([v.face for v in verdicts]),
        style=_mean([v.style for v in verdicts]),
        tasks=tuple(
            _task_score(task, [pair for pair in pairs if pair[0].task == task])
            for task in dict.fromkeys(case.task for case in samples)
        ),
        held_out=_held_out(pairs),
        verdicts=verdicts,
    )


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


def _share(outcomes: Sequence[bool]) -> Interval[float]:
    return wilson(sum(outcomes), len(outcomes))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _unchanged(pairs: Sequence[tuple[Sample, Verdict]]) -> float | None:
    # A picture that is entirely new has nothing that could stay. Its perfect score would only flatter the mean.
    return _mean([v.unchanged for case, v in pairs if case.tags.scope[0].endswith("editing")])


def _task_score(task: str, pairs: Sequence[tuple[Sample, Verdict]]) -> TaskScore:
    success, done = (fmean(values) for values in zip(*((v.success, v.edit_done) for _, v in pairs), strict=True))
    return TaskScore(task, len(pairs), success, done, _unchanged(pairs))


def _held_out(pairs: Sequence[tuple[Sample, Verdict]]) -> dict[str, Interval[float]]:
    return {
        "seen phrasing": _share([v.success for case, v in pairs if not case.held_out_paraphrase]),
        "held-out phrasing": _share([v.success for case, v in pairs if case.held_out_paraphrase]),
        "seen combination": _share([v.success for case, v in pairs if not case.held_out_combination]),
        "held-out combination": _share([v.success for case, v in pairs if case.held_out_combination]),
    }
