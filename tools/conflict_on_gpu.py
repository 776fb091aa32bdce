"""Runs of the registered experiment on one GPU, for as many minutes as there are.

The first minute measures how long a step takes with how many processes at once. From that follows how many runs fit
into the time, and these are trained and their cases edited, in the order of the plan, whole seeds first. Judging needs
no GPU: it is done from the saved pictures, with --judge, on any processor.

    python tools/conflict_on_gpu.py runs/gpu --minutes 12 --processes 12
    python tools/conflict_on_gpu.py runs/gpu --judge

Such runs are of another processor than those of a CPU. They are results of their own, and never mixed with those of
docs/results/registered/runs. Weights and optimizer are in fp32, as there, but for Muon's iteration, which torch does in
bf16 on a GPU. Pictures are rendered on the CPU: give --cache with one that holds them, or that takes most of the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagmoe.config import find_arms
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.job import Job, alignment_of, parameters_of
from tagmoe.laboratory.ablation.measure import routed
from tagmoe.laboratory.registered.exam import edit_all, judge_all
from tagmoe.laboratory.registered.plan import Experiment, Planned, read_experiment
from tagmoe.laboratory.registered.runner import jobs_of
from tagmoe.laboratory.registered.work import plan_of
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train import recipe
from tagmoe.train.batch import Batch
from tagmoe.train.components_folder import read_components
from tagmoe.train.loop import fill, flat_parameters, train_step, update_average
from tagmoe.train.optimizer import learning_rate_factor, make_optimizers, set_learning_rate
from tagmoe.train.stage import Draw, FlowStage

MEASURE = 60.0
"""Seconds in which the time of a step is measured."""
EDITING = 0.15
"""Share of a run's time that goes to editing, as on a CPU."""


class DeviceStage(FlowStage):
    """A stage whose batches lie where its model lies."""

    def draw(self, step: int, micro: int) -> Draw:
        """As `FlowStage.draw`, on the model's device."""
        batch, noise_BTC, t_B = super().draw(step, micro)
        device = self.transformer.device
        moved = {
            field.name: value.to(device)
            for field in fields(Batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        return replace(batch, **moved), noise_BTC.to(device), t_B.to(device)


def main() -> None:
    """Measure, train and edit, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", type=Path, default=Path("tagworld/conflict"))
    parser.add_argument("--cache", type=Path, help="folder of encoded pictures; by default OUT/cache")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--measure", type=float, default=MEASURE, help="seconds of the measurement")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    folder = find_arms(options.recipes)
    experiment = read_experiment(folder, folder / "plan.yaml", tuple(options.set))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.judge:
        judge_runs(experiment, options.out)
    else:
        run_what_fits(experiment, options)


def run_what_fits(experiment: Experiment, options: argparse.Namespace) -> None:
    """Train and edit, in the order of the plan, the runs that the time is enough for."""
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    bases = list({run.seed: run for run in experiment.runs}.values())
    shared = (experiment, options.out, options.cache, options.device)
    with context.Pool(options.processes, initializer=one_thread) as pool:
        pool.starmap(train_base, [(*shared, run) for run in bases[:1]])
        timed = pool.starmap(seconds_a_step, [(*shared, bases[0], options.measure)] * options.processes)
        step = max(timed)
        each = step * experiment.runs[0].arm.config.unified.steps * (1 + EDITING)
        left = 60 * options.minutes - (time.monotonic() - started)
        count = min(len(experiment.runs), int(left / each) * options.processes)
        print(json.dumps({"seconds a step": step, "seconds a run": each, "left": left, "runs": count}), flush=True)
        chosen = experiment.runs[:count]
        pool.starmap(train_base, [(*shared, run) for run in bases[1:] if run.seed in {one.seed for one in chosen}])
        tasks = [pool.apply_async(train_and_edit, (*shared, run)) for run in chosen]
        for task in tasks:
            wait = 60 * options.minutes - (time.monotonic() - started)
            try:
                print(json.dumps(task.get(timeout=max(1.0, wait))), flush=True)
            except multiprocessing.TimeoutError:
                print("the time is over; what is not finished is lost", flush=True)
                pool.terminate()
                return


def one_thread() -> None:
    """Each process has one CPU thread."""
    torch.set_num_threads(1)


def placed(experiment: Experiment, run: Planned, out: Path, cache: Path | None) -> tuple[Job, Job]:
    """The base and the run, with this cache."""
    jobs = jobs_of(experiment, run, out)
    if cache is None:
        return jobs
    base, job = (replace(job, config=job.config.model_copy(update={"cache_dir": str(cache)})) for job in jobs)
    return base, job


def stage_of(job: Job, device: str) -> tuple[DeviceStage, TagMoEPipeline]:
    """The stage that a job trains, on a device, and its pipeline."""
    config = job.config
    parts = read_components(config.components or "packaged")
    transformer = recipe.unified_transformer(recipe.dense_transformer(config, parts), config)
    by_family = config.moe is not None and config.moe.router == "family"
    pipeline = recipe.assemble(transformer, parts).to(device)
    is_base = job.plan is None
    settings = config.base.model_copy(update={"text_to_image_every": 1}) if is_base else config.unified
    stage = DeviceStage(
        "base" if is_base else "unified",
        pipeline,
        settings,
        config.loss,
        config.optimizer,
        seed=config.seed,
        cache=Path(config.cache_dir or job.folder / "cache"),
        validator=lambda *_: {},
        conflict=config.conflict,
        by_family=by_family,
        divide=config.divide,
    )
    stage.objective.to(device)
    return stage, pipeline


def steps_of(stage: FlowStage, seconds: float | None = None) -> tuple[dict[str, Tensor], list[dict[str, float]], float]:
    """Train a stage to its end, or for some seconds: (averaged weights, terms of some steps, seconds a step)."""
    optimizers = make_optimizers(stage.modules, stage.optimizer)
    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    ema = {name: value.detach().clone() for name, value in flat_parameters(stage.modules).items()}
    every, kept, started, done = max(1, stage.steps // 40), [], time.monotonic(), 0
    for step in range(stage.steps):
        set_learning_rate(optimizers, learning_rate_factor(step, stage.steps, stage.optimizer))
        report = train_step(stage, step, optimizers, parameters, "fp32")
        decay = min(stage.optimizer.ema_decay, (2 + step) / (11 + step))
        update_average(ema, flat_parameters(stage.modules), decay)
        done += 1
        if done % every == 0:
            kept.append({"step": float(done), **report})
        if seconds is not None and time.monotonic() - started > seconds:
            break
    return ema, kept, (time.monotonic() - started) / max(1, done)


def seconds_a_step(
    experiment: Experiment, out: Path, cache: Path | None, device: str, run: Planned, seconds: float
) -> float:
    """Seconds of a training step, measured for some time while the other processes do the same."""
    stage, _ = stage_of(placed(experiment, run, out, cache)[1], device)
    return steps_of(stage, seconds)[2]


def train_base(experiment: Experiment, out: Path, cache: Path | None, device: str, run: Planned) -> None:
    """Train the dense base of a seed."""
    base, _ = placed(experiment, run, out, cache)
    if not base.model.exists():
        finish(base, device)


def finish(job: Job, device: str) -> list[dict[str, float]]:
    """Train a job and save its model, as training on a CPU does. Returns the terms of some steps."""
    stage, pipeline = stage_of(job, device)
    ema, kept, _ = steps_of(stage)
    fill(stage.modules, ema)
    job.model.parent.mkdir(parents=True, exist_ok=True)
    alignment = {name: value.cpu() for name, value in stage.objective.state_dict().items()} if stage.is_moe else None
    recipe.save_model(pipeline.to("cpu"), job.model, alignment=alignment)
    return kept


def train_and_edit(experiment: Experiment, out: Path, cache: Path | None, device: str, run: Planned) -> dict[str, Any]:
    """Train a run and edit its cases; the pictures wait for the judge. Returns what was measured."""
    _, job = placed(experiment, run, out, cache)
    started = time.monotonic()
    kept = finish(job, device)
    trained = time.monotonic()
    plan = plan_of(job)
    pipeline = TagMoEPipeline.from_pretrained(job.model, dtype=torch.float32).to(device)
    edit_all(pipeline, plan.samples(), plan, job.folder)
    record = {
        "run": run.name,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "versions": recipe.versions(),
        "seconds": {"training": trained - started, "editing": time.monotonic() - trained},
        "training": kept,
        "parameters": parameters_of(pipeline.transformer),
    }
    write_whole(job.folder / "trained.json", json.dumps(record))
    return {"run": run.name, **record["seconds"]}


def judge_runs(experiment: Experiment, out: Path) -> None:
    """Judge the pictures of all runs that are trained, measure their flow loss, and write OUT/results/RUN.json."""
    results = out / "results"
    results.mkdir(exist_ok=True)
    for run in experiment.runs:
        _, job = jobs_of(experiment, run, out)
        trained, target = job.folder / "trained.json", results / f"{run.name}.json"
        if not trained.is_file() or target.is_file():
            continue
        plan = plan_of(job)
        samples = plan.samples()
        pipeline = TagMoEPipeline.from_pretrained(job.model, dtype=torch.float32)
        measured = edit_all(pipeline, samples, plan, job.folder)
        routing = routed(samples, measured, alignment_of(job))
        record = json.loads(trained.read_text(encoding="utf-8")) | {
            "plan": experiment.digest,
            "scores": judge_all(samples, measured.images, job.folder).model_dump(),
            "flow": plan.meter(pipeline)(pipeline).model_dump(),
            "routing": None if routing is None else routing.model_dump(),
        }
        write_whole(target, json.dumps(record) + "\n")
        for part in job.folder.glob("verdicts-*"):
            part.unlink()
        shutil.rmtree(job.folder / "run" / "checkpoints", ignore_errors=True)
        print(run.name, flush=True)


if __name__ == "__main__":
    main()
