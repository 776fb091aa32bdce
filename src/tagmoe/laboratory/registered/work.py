"""The work of one run: train it, then edit and judge its cases."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console

from tagmoe.laboratory.ablation import measure
from tagmoe.laboratory.ablation.job import Job, alignment_of, parameters_of, read_metrics
from tagmoe.laboratory.registered.exam import edit_all, judge_all
from tagmoe.laboratory.registered.machine import code_digest
from tagmoe.pipeline.model_folder import RECORD
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train import recipe
from tagmoe.train.stream import EDITING

KEPT = 40
"""The result keeps the loss terms of so many steps."""


def train(job: Job, console: Console) -> None:
    """Train a job's model, from its last checkpoint where it has one. Raises DivergedError."""
    validator = measure.curve_validator(plan_of(job)) if job.plan is not None else lambda *_: {}
    resume = (job.folder / "run" / RECORD).exists()
    recipe.train(job.config, validator=validator, resume=resume, console=console)


def plan_of(job: Job) -> measure.Plan:
    """How a job's model is measured: on editing tasks alone."""
    return measure.Plan(**{"curve_cases": 0, "tasks": EDITING, **(job.plan or {})})


def examined(job: Job) -> dict[str, Any]:
    """Edit and judge all cases of a trained job. Returns fields of `RegisteredRun`."""
    torch.set_num_threads(job.config.threads or 1)
    plan = plan_of(job)
    pipeline = TagMoEPipeline.from_pretrained(job.model, dtype=torch.float32)
    samples = plan.samples()
    started = time.perf_counter()
    measured = edit_all(pipeline, samples, plan, job.folder)
    edited = time.perf_counter()
    scores = judge_all(samples, measured.images, job.folder)
    judged = time.perf_counter()
    fields = _trained(job)
    fields["seconds"] |= {"editing": round(edited - started, 1), "judging": round(judged - edited, 1)}
    return fields | {
        "parameters": parameters_of(pipeline.transformer),
        "scores": scores,
        "flow": plan.meter(pipeline)(pipeline),
        "routing": measure.routed(samples, measured, alignment_of(job)),
    }


def diverged(job: Job, reason: str) -> dict[str, Any]:
    """The fields of `RegisteredRun` of a job whose training diverged."""
    return _trained(job) | {"parameters": {}, "scores": None, "flow": None, "diverged": reason}


def _trained(job: Job) -> dict[str, Any]:
    steps, curve = read_metrics(job.folder / "run" / "metrics.jsonl")
    every = max(1, job.config.unified.steps // KEPT)
    return {
        "versions": recipe.versions(),
        "code": code_digest(),
        "seconds": {"training": round(sum(step["seconds"] for step in steps), 1)},
        "curve": tuple(curve),
        "training": tuple({k: v for k, v in s.items() if k != "seconds"} for s in steps if s["step"] % every == 0),
    }
