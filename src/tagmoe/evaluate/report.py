"""The report of an evaluation: results.json for machines, and one offline HTML page for people.

The page needs nothing but itself: style, script and pictures are inside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.evaluate.tagworld import TagWorldScores
from tagmoe.files.atomic import write_whole
from tagmoe.pictures import data_address
from tagmoe.report.pages import page_environment
from tagmoe.routing.case_routing import CaseRouting, by_task
from tagmoe.world import Sample, Verdict

MAPPED_CASES = 6


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows. seconds: time of editing. routing: one a case; None for a dense model."""

    samples: Sequence[Sample]
    images: Sequence[np.ndarray]
    scores: TagWorldScores
    routing: Sequence[CaseRouting] | None
    model: str
    versions: dict[str, str]
    seed: int
    steps: int
    cfg: float
    seconds: float
    date: str
    command: str


def results(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain data, for results.json and --json."""
    scores = evaluation.scores
    return {
        "success": scores.success.value,
        "success_low": scores.success.low,
        "success_high": scores.success.high,
        "n": scores.success.n,
        "edit_done": scores.edit_done.value,
        "unchanged": scores.unchanged,
        "subject": scores.subject,
        "face": scores.face,
        "style": scores.style,
        "tasks": [asdict(task) for task in scores.tasks],
        "held_out": {name: asdict(share) for name, share in scores.held_out.items()},
        "seconds": evaluation.seconds,
        "versions": evaluation.versions,
        "seed": evaluation.seed,
        "steps": evaluation.steps,
        "cfg": evaluation.cfg,
        "model": evaluation.model,
        "date": evaluation.date,
        "command": evaluation.command,
        "cases": [_case(*pair) for pair in zip(evaluation.samples, scores.verdicts, strict=True)],
        "routing": _routing(evaluation),
    }


def write_report(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write report.html and results.json into an existing folder; returns the results."""
    data = results(evaluation)
    write_whole(folder / "results.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "report.html", render(evaluation))
    return data


def render(evaluation: Evaluation) -> str:
    """The HTML page. All text is escaped: instructions and model names come from outside."""
    environment = page_environment("tagmoe.evaluate")
    environment.filters |= {
        "png": lambda picture: data_address(Image.fromarray(picture)),
        "tint": _tint,
    }
    routing = evaluation.routing
    tasks = [case.task for case in evaluation.samples]
    return environment.get_template("report.html.j2").render(
        e=evaluation,
        scores=evaluation.scores,
        cases=list(zip(evaluation.samples, evaluation.images, evaluation.scores.verdicts, strict=True)),
        routing=by_task(tasks, routing) if routing else {},
        experts=routing[0].target_LN.shape[1] if routing else 0,
        maps=_mapped(evaluation),
    )


def _case(case: Sample, verdict: Verdict) -> dict[str, Any]:
    about = {
        name: getattr(case, name)
        for name in ("task", "instruction", "held_out_paraphrase", "held_out_combination", "seed", "index")
    }
    return {**about, **asdict(verdict), "reasons": list(verdict.reasons)}


def _routing(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.routing:
        return None
    tasks = by_task([case.task for case in evaluation.samples], evaluation.routing)
    return {
        task: {
            "target": np.round(shares.target_LN, 4).tolist(),
            "references": None if shares.references_LN is None else np.round(shares.references_LN, 4).tolist(),
        }
        for task, shares in tasks.items()
    }


def _mapped(evaluation: Evaluation) -> list[tuple[Sample, np.ndarray, CaseRouting]]:
    """A few cases for the token maps, from tasks spread over the list. A task's first success is preferred."""
    if not evaluation.routing:
        return []
    rows = list(zip(evaluation.samples, evaluation.images, evaluation.routing, evaluation.scores.verdicts, strict=True))
    tasks = list(dict.fromkeys(row[0].task for row in rows))
    chosen = tasks[:: max(1, -(-len(tasks) // MAPPED_CASES))]
    picked = [min((row for row in rows if row[0].task == task), key=lambda row: not row[3].success) for task in chosen]
    return [(case, image, routing) for case, image, routing, _ in picked]


def _tint(share: float, uniform: float) -> str:
    """CSS colour of a share. It is more opaque the further the share is above or below the uniform share."""
    if share >= uniform:
        strength, colour = (share - uniform) / max(1 - uniform, 1e-9), "var(--above)"
    else:
        strength, colour = (uniform - share) / max(uniform, 1e-9), "var(--below)"
    return f"color-mix(in srgb, {colour} {100 * strength:.0f}%, transparent)"
