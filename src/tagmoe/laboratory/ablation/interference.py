"""Measure whether tasks interfere. Paper 1 and 3.1 name task interference as the reason for the mixture.

There are two measurements. Training: each family of tasks is trained alone, and all are trained together, dense and
sparse, from the same base and with as many samples of each task. So a family alone has fewer optimizer steps, and what
is better together need not be help of other tasks. Gradients: the cosine between tasks' gradients of L_flow
in the image FFNs of the late blocks. Where it is negative, a step for one task undoes a step for the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tagmoe.config import MoEConfig
from tagmoe.files.atomic import write_whole
from tagmoe.intervals import Bootstrap
from tagmoe.laboratory.ablation.arms import Arm, common_digest
from tagmoe.laboratory.ablation.job import Job, changed, measured_as, read_job
from tagmoe.laboratory.ablation.measure import FlowSamples, Plan
from tagmoe.laboratory.ablation.paired import estimate
from tagmoe.laboratory.ablation.results import BASE, NAME, Result, read_result
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.stream import EDITING
from tagmoe.world import sample
from tagmoe.world.families import FAMILIES

FOLDER = "interference"
TOGETHER = "together"
GRADIENT_SEED = 31
OPPOSED = -0.1
"""A corrected cosine below this counts as opposed."""
WARMUP_SHARE = 8
"""The warm-up takes 1/8 of a run's steps, so that a short run does not consist of its warm-up."""


def family_jobs(out: Path, seed: int, arm: Arm, plan: Plan, *, equal_steps: bool = False) -> list[Job]:
    """Jobs that train an arm on all editing tasks together, and on each family alone, with equal steps a task.

    equal_steps: with equal optimizer steps instead. Then a family alone sees more samples of each of its tasks, so the
    comparison is on the side of training alone, and a family that does better together is helped for certain.
    """
    steps = arm.config.unified.steps
    groups: dict[str, tuple[str, ...]] = {TOGETHER: EDITING, **FAMILIES}
    jobs = []
    for name, tasks in groups.items():
        share = steps if equal_steps else round(steps * len(tasks) / len(EDITING))
        folder = out / FOLDER / f"{arm.name}-{name}" / f"seed-{seed}"
        stage = {"steps": share, "edit_tasks": list(tasks), "text_to_image_every": 0}
        config = changed(
            arm.config,
            seed=seed,
            base={**arm.config.base.model_dump(), "steps": 0},
            unified={**arm.config.unified.model_dump(), **stage},
            optimizer={**arm.config.optimizer.model_dump(), "warmup_steps": share // WARMUP_SHARE},
            dense=str(out / BASE / f"seed-{seed}" / "run" / "model"),
            output_dir=str(folder / "run"),
            cache_dir=str(out / "cache"),
        )
        own = plan.record() | measured_as(config) | {"tasks": list(tasks)}
        about = f"{arm.name}, trained on {name}" + ("" if name == TOGETHER else " alone")
        jobs.append(Job(folder, f"{arm.name}-{name}", about, config, own, common_digest(config, own)))
    return jobs


@dataclass(frozen=True)
class TaskGradients:
    """Cosines between tasks' gradients in the image FFNs of the late blocks (all experts of a mixture stacked).

    cosine_KK: symmetric cosines between the mean gradients of two halves of each task's samples. Because the halves
    differ, the diagonal is the reliability of the estimate, and not always 1.
    """

    tasks: tuple[str, ...]
    cosine_KK: np.ndarray
    samples: int

    def conflict(self) -> float:
        """Share of the pairs of different tasks whose gradients point against each other."""
        return float((self._pairs() < 0).mean())

    def mean(self) -> float:
        """Mean cosine between different tasks."""
        return float(self._pairs().mean())

    def reliability(self) -> float:
        """Mean cosine between the two halves of the same task. Without noise it would be 1."""
        return float(np.diag(self.cosine_KK).mean())

    def corrected(self) -> np.ndarray:
        """The cosines of all pairs of tasks, divided by the root of the product of their reliabilities.

        A noisy estimate has too small a cosine with any other. Pairs with a task of no reliability are left out.
        """
        reliability_K = np.diag(self.cosine_KK)
        first, second = np.triu_indices(len(self.tasks), k=1)
        product = reliability_K[first] * reliability_K[second]
        known = (reliability_K[first] > 0) & (reliability_K[second] > 0)
        values: np.ndarray = self._pairs()[known] / np.sqrt(product[known])
        return values

    def opposed(self) -> float:
        """Share of the pairs whose corrected cosine is below -0.1."""
        return float((self.corrected() < OPPOSED).mean())

    def _pairs(self) -> np.ndarray:
        return self.cosine_KK[np.triu_indices(len(self.tasks), k=1)]


def task_gradients(
    pipeline: TagMoEPipeline,
    *,
    late_blocks: int,
    samples: int = 256,
    tasks: Sequence[str] = EDITING,
    conflict: float = 0.0,
) -> TaskGradients:
    """The gradient of L_flow of every task at the pipeline's weights, which stay as they are. conflict: of the dial.

    samples: training cases for each task; their times are evenly spread. late_blocks: the number of last blocks to use;
    in a mixture model these have the experts.
    """
    parameters = [
        parameter
        for block in pipeline.transformer.transformer_blocks[-late_blocks:]
        for name, parameter in block.img_mlp.named_parameters()
        if ".gate." not in f".{name}" and parameter.ndim == 2
    ]
    halves: list[list[Tensor]] = [[], []]
    for number, task in enumerate(tasks):
        drawn = [sample(GRADIENT_SEED, number + len(tasks) * i, task=task) for i in range(samples)]
        batch = FlowSamples(pipeline, drawn, seed=GRADIENT_SEED + number, conflict=conflict)
        t_B = (torch.arange(samples) + 0.5) / samples
        # Shuffled, so that each half has times from the whole range.
        t_B = t_B[torch.randperm(samples, generator=torch.Generator().manual_seed(number))]
        for half, kept in enumerate(halves):
            loss = batch.loss(pipeline, t_B, slice(half * samples // 2, (half + 1) * samples // 2)).mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
            kept.append(torch.nn.functional.normalize(torch.cat([g.flatten().float() for g in flat]), dim=0))
    first, second = (torch.stack(kept) for kept in halves)
    cosine_KK = (first @ second.T).numpy()
    return TaskGradients(tuple(tasks), (cosine_KK + cosine_KK.T) / 2, samples)


def summarise(out: Path, arms: Sequence[str], seeds: Sequence[int], *, samples: int = 256) -> Path:
    """Compare the finished family jobs and measure gradients. Writes interference.json and returns its path.

    samples: cases of each task for the gradients. Raises ResultError when a job is not finished.
    """
    from tagmoe.train.recipe import versions

    results = {
        (arm, name, seed): read_result(out / FOLDER / f"{arm}-{name}" / f"seed-{seed}" / NAME)
        for arm in arms
        for name in (TOGETHER, *FAMILIES)
        for seed in seeds
    }
    data: dict[str, Any] = {"seeds": list(seeds), "versions": versions(), "families": FAMILIES, "training": {}}
    for arm in arms:
        data["training"][arm] = {
            family: _alone_and_together(
                [results[arm, family, seed] for seed in seeds],
                [results[arm, TOGETHER, seed] for seed in seeds],
                [_flow_together(out, arm, family, seed) for seed in seeds],
            )
            for family in FAMILIES
        }
    data["gradients"] = {arm: _gradients(out, arm, seeds, samples) for arm in arms}
    path = out / "interference.json"
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return path


def _flow_together(out: Path, arm: str, family: str, seed: int) -> float:
    """L_flow of a family's held-out samples after training on all tasks, the mean over timesteps."""
    folder, alone = (out / FOLDER / f"{arm}-{name}" / f"seed-{seed}" for name in (TOGETHER, family))
    pipeline = TagMoEPipeline.from_pretrained(folder / "run" / "model", dtype=torch.float32)
    return float(np.mean(Plan(**(read_job(alone).plan or {})).meter(pipeline)(pipeline).loss))


def _alone_and_together(alone: list[Result], together: list[Result], flow_together: list[float]) -> dict[str, Any]:
    """Success and L_flow of a family after training on it alone and on all tasks, and their paired difference."""
    inside = np.isin(together[0].cases.tasks, sorted(set(alone[0].cases.tasks)))
    alone_SC = np.array([result.verdicts.success for result in alone], dtype=float)
    together_SC = np.array([result.verdicts.success for result in together], dtype=float)[:, inside]
    difference = estimate(together_SC - alone_SC, [result.seed for result in alone], Bootstrap(10_000))
    assert difference is not None  # every case can succeed
    return {
        "steps": {"alone": alone[0].settings["unified"]["steps"], "together": together[0].settings["unified"]["steps"]},
        "cases": difference.cases,
        "alone": float(alone_SC.mean()),
        "together": float(together_SC.mean()),
        "difference": difference.value,
        "interval": None if difference.over_cases is None else list(difference.over_cases.bounds),
        "by_seed": list(difference.by_seed),
        "flow": {"alone": [float(np.mean(result.flow.loss)) for result in alone], "together": flow_together},
    }


def _gradients(out: Path, arm: str, seeds: Sequence[int], samples: int) -> dict[str, Any]:
    """Cosines of the tasks' gradients after training on all tasks, mean over seeds."""
    measured = []
    for seed in seeds:
        folder = out / FOLDER / f"{arm}-{TOGETHER}" / f"seed-{seed}"
        pipeline = TagMoEPipeline.from_pretrained(folder / "run" / "model", dtype=torch.float32)
        late = (read_job(folder).config.moe or MoEConfig()).num_moe_blocks
        late = min(late, len(pipeline.transformer.transformer_blocks))
        alpha = read_job(folder).config.conflict
        measured.append(task_gradients(pipeline, late_blocks=late, samples=samples, conflict=alpha))
    return {
        "tasks": list(measured[0].tasks),
        "samples": measured[0].samples,
        "conflict": [found.conflict() for found in measured],
        "mean": [found.mean() for found in measured],
        "reliability": [found.reliability() for found in measured],
        "corrected median": [float(np.median(found.corrected())) for found in measured],
        "corrected opposed": [found.opposed() for found in measured],
        "cosine": np.mean([found.cosine_KK for found in measured], axis=0).round(4).tolist(),
    }
