"""Edit and judge the cases of one run, in parts: a stop loses at most the part that runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.measure import Measured, Plan, edit_cases
from tagmoe.laboratory.registered.result import Scores
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.world import Sample, Verdict, judge

PART = 250
"""Cases of a part: some seconds."""


def edit_all(pipeline: TagMoEPipeline, samples: Sequence[Sample], plan: Plan, folder: Path) -> Measured:
    """The pictures and the routing of all cases. Parts that the folder has are not edited again."""
    parts = []
    for start in range(0, len(samples), PART):
        path = folder / f"edits-{start:06d}.safetensors"
        part = Measured.load(path)
        if part is None:
            part = edit_cases(pipeline, samples, plan, range(start, min(start + PART, len(samples))))
            part.save(path)
        parts.append(part)
    if parts[0].target_CLN is None:
        return Measured(np.concatenate([part.images for part in parts]))
    return Measured(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.target_CLN for part in parts if part.target_CLN is not None]),
        np.concatenate([part.signature_CN for part in parts if part.signature_CN is not None]),
    )


def judge_all(samples: Sequence[Sample], images: np.ndarray, folder: Path) -> Scores:
    """The verdicts of all cases. Parts that the folder has are not judged again."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(samples), PART):
        path = folder / f"verdicts-{start:06d}.json"
        if not path.is_file():
            end = min(start + PART, len(samples))
            verdicts = [judge(case, image) for case, image in zip(samples[start:end], images[start:end], strict=True)]
            write_whole(path, json.dumps([_row(verdict) for verdict in verdicts]))
        rows += json.loads(path.read_text(encoding="utf-8"))
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case, row in zip(samples, rows, strict=True):
        by_task[case.task].append(row)
    return Scores(
        success="".join(str(int(row["success"])) for row in rows),
        edit_done="".join(str(int(row["edit_done"])) for row in rows),
        unchanged={task: round(fmean(row["unchanged"] for row in own), 4) for task, own in by_task.items()},
        by_task={task: round(fmean(row["success"] for row in own), 4) for task, own in by_task.items()},
    )


def _row(verdict: Verdict) -> dict[str, Any]:
    return {"success": verdict.success, "edit_done": verdict.edit_done, "unchanged": verdict.unchanged}
