"""Show that TagWorld's conflict dial makes conflict: task gradients, and training alone against together.

At each alpha one model is trained on all editing tasks; the cosines between the tasks' gradients at its weights are
divided by the root of their reliabilities. At the first and the last alpha each family is also trained alone, for
equally many optimizer steps, and its L_flow on held-out samples is compared. Everything resumes.

    python tools/measure_conflict.py runs/conflict-dial --json docs/results/conflict-dial.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagmoe.config import find_arms
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.arms import load_arms
from tagmoe.laboratory.ablation.interference import family_jobs, task_gradients
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
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--unique", type=int, default=12800, help="different samples of a stage")
    parser.add_argument("--samples", type=int, default=256, help="of each task, for its gradient")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    alphas = [float(word) for word in options.alphas.split(",")]
    rows = {alpha: gradients(options, alpha) for alpha in alphas}
    for alpha in (alphas[0], alphas[-1]):
        rows[alpha]["flow"] = alone_and_together(options, alpha)
    found = {
        "arm": "dense",
        "seed": options.seed,
        "steps": options.steps,
        "batch": options.batch,
        "base steps": options.base_steps,
        "unique samples": options.unique,
        "samples": options.samples,
        "versions": versions(),
        "alphas": list(rows.values()),
    }
    write_whole(options.json, json.dumps(found, indent=1) + "\n")


def jobs_of(options: argparse.Namespace, alpha: float) -> list[Job]:
    """The jobs of one alpha: on all tasks together, then on each family alone. The base is made here."""
    changes = [f"conflict={alpha}", f"unified.steps={options.steps}", f"unified.batch={options.batch}"]
    changes += [f"base.steps={options.base_steps}", f"base.batch={options.batch}", "validate_every=100000"]
    changes += [f"{stage}.unique_samples={options.unique}" for stage in ("base", "unified")]
    (arm,) = load_arms(find_arms(Path("tagworld/conflict")), ["dense"], changes)
    run(base_job(options.out, options.seed, arm))
    plan = Plan(per_task=1, steps=1, cfg=1.0, curve_cases=0)
    shared = {
        "dense": str(options.out / BASE / f"seed-{options.seed}" / "run" / "model"),
        "cache_dir": str(options.out / "cache"),
    }
    jobs = family_jobs(options.out / f"alpha-{alpha:g}", options.seed, arm, plan, equal_steps=True)
    return [Job(job.folder, job.arm, job.about, changed(job.config, **shared), job.plan, job.common) for job in jobs]


def gradients(options: argparse.Namespace, alpha: float) -> dict[str, Any]:
    """The cosines between tasks' gradients after training on all tasks together."""
    together = jobs_of(options, alpha)[0]
    run(together)
    pipeline = TagMoEPipeline.from_pretrained(together.model, dtype=torch.float32)
    found = task_gradients(pipeline, late_blocks=2, samples=options.samples, conflict=alpha)
    row = {
        "alpha": alpha,
        "median cosine": float(np.median(found.corrected())),
        "opposed pairs": found.opposed(),
        "pairs": len(found.corrected()),
        "reliability": found.reliability(),
        "uncorrected mean": found.mean(),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def alone_and_together(options: argparse.Namespace, alpha: float) -> dict[str, dict[str, float]]:
    """By family, L_flow on its held-out samples after training on it alone and on all tasks together."""
    together, *families = jobs_of(options, alpha)
    found = {}
    for family, alone in zip(FAMILIES, families, strict=True):
        run(alone)
        found[family] = {
            name: flow_of(job, FAMILIES[family], alpha) for name, job in (("alone", alone), ("together", together))
        }
        print(json.dumps([alpha, family, found[family]]), file=sys.stderr, flush=True)
    return found


def run(job: Job) -> None:
    """Do a job unless it is done."""
    if not job.finished:
        job.write()
        do(job)


def flow_of(job: Job, tasks: tuple[str, ...], alpha: float) -> float:
    """L_flow of held-out samples of these tasks under a job's model, the mean over timesteps."""
    pipeline = TagMoEPipeline.from_pretrained(job.model, dtype=torch.float32)
    return float(np.mean(FlowMeter(pipeline, tasks, alpha)(pipeline).loss))


if __name__ == "__main__":
    main()
