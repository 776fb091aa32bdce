"""Show that TagWorld's conflict dial makes conflict: task gradients, and training alone against together.

At each alpha one model is trained on all editing tasks; the cosines between the tasks' gradients at its weights are
divided by the root of their reliabilities. At the first and the last alpha each family is also trained alone, for
equally many optimizer steps, and its L_flow on held-out samples is compared. Everything resumes.

    python tools/measure_conflict.py runs/conflict-dial --json docs/results/conflict-dial.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagmoe.config import find_arms
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.arms import load_arms
from tagmoe.laboratory.ablation.interference import FOLDER, TOGETHER, family_jobs, task_gradients
from tagmoe.laboratory.ablation.job import Job, base_job, changed, do
from tagmoe.laboratory.ablation.measure import FlowMeter, Plan
from tagmoe.laboratory.ablation.results import BASE
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.recipe import versions
from tagmoe.world.families import FAMILIES


def main() -> None:
    """Train, measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--alphas", default="0,0.25,0.5,1")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=256, help="of each task, for its gradient")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    alphas = [float(word) for word in options.alphas.split(",")]
    rows = []
    for alpha in alphas:
        rows.append(measure(options, alpha, alone=alpha in (alphas[0], alphas[-1])))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    found = {
        "arm": "dense",
        "seed": options.seed,
        "steps": options.steps,
        "batch": options.batch,
        "samples": options.samples,
        "versions": versions(),
        "alphas": rows,
    }
    write_whole(options.json, json.dumps(found, indent=1) + "\n")


def measure(options: argparse.Namespace, alpha: float, *, alone: bool) -> dict[str, Any]:
    """The figures of one alpha."""
    changes = [f"conflict={alpha}", f"unified.steps={options.steps}", f"unified.batch={options.batch}"]
    changes += [f"base.batch={options.batch}", "unified.unique_samples=12800", "validate_every=100000"]
    (arm,) = load_arms(find_arms(Path("tagworld/conflict")), ["dense"], changes)
    base = base_job(options.out, options.seed, arm)
    run(base)
    plan = Plan(per_task=1, steps=1, cfg=1.0, curve_cases=0)
    shared = {
        "dense": str(options.out / BASE / f"seed-{options.seed}" / "run" / "model"),
        "cache_dir": str(options.out / "cache"),
    }
    together, *families = family_jobs(options.out / f"alpha-{alpha:g}", options.seed, arm, plan, equal_steps=True)
    for job in [together, *(families if alone else [])]:
        run(Job(job.folder, job.arm, job.about, changed(job.config, **shared), job.plan, job.common))
    pipeline = TagMoEPipeline.from_pretrained(together.model, dtype=torch.float32)
    gradients = task_gradients(pipeline, late_blocks=2, samples=options.samples, conflict=alpha)
    row: dict[str, Any] = {
        "alpha": alpha,
        "median cosine": float(np.median(gradients.corrected())),
        "opposed pairs": gradients.opposed(),
        "reliability": gradients.reliability(),
        "uncorrected mean": gradients.mean(),
        "pairs": len(gradients.corrected()),
    }
    if alone:
        row["flow"] = {
            family: {
                "alone": flow_of(options.out, alpha, f"{arm.name}-{family}", options.seed, family),
                "together": flow_of(options.out, alpha, f"{arm.name}-{TOGETHER}", options.seed, family),
            }
            for family in FAMILIES
        }
    return row


def run(job: Job) -> None:
    """Do a job unless it is done."""
    if not job.finished:
        job.write()
        do(job)


def flow_of(out: Path, alpha: float, name: str, seed: int, family: str) -> float:
    """L_flow of a family's held-out samples under a trained model, the mean over timesteps."""
    model = out / f"alpha-{alpha:g}" / FOLDER / name / f"seed-{seed}" / "run" / "model"
    pipeline = TagMoEPipeline.from_pretrained(model, dtype=torch.float32)
    return float(np.mean(FlowMeter(pipeline, FAMILIES[family], alpha)(pipeline).loss))


if __name__ == "__main__":
    main()
