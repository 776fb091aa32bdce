"""One job of the laboratory, in a process of its own: the dense base of a seed, or one arm trained and measured.

FOLDER/<arm>/seed-<s>/
    job.json            what is to be done
    run/                the training run: config.resolved.yaml, metrics.jsonl, checkpoints/, model/
    edits.safetensors   the pictures and routing of the cases
    result.json         written last, when the job is done
    log.txt             output of the process
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import ResultError
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_lines import lines_of
from tagmoe.laboratory.ablation.arms import FREE, Arm, common_digest
from tagmoe.laboratory.ablation.results import BASE, NAME
from tagmoe.sentences import counted

EVERY = 20
"""The result keeps the loss terms of every n-th step."""


@dataclass(frozen=True)
class Job:
    """The work of one process in `folder`. plan: the fields of `measure.Plan`; None for a base (not measured)."""

    folder: Path
    arm: str
    about: str
    config: RunConfig
    plan: dict[str, Any] | None
    common: str

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.model if self.plan is None else self.folder / NAME).exists()

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "run" / "model"

    @property
    def steps(self) -> int:
        """Training steps of the job, all stages."""
        return self.config.base.steps + self.config.unified.steps

    def steps_done(self) -> int:
        """Training steps that are done, read from the metrics."""
        path = self.folder / "run" / "metrics.jsonl"
        if self.model.exists():
            return self.steps
        try:
            with path.open("rb") as handle:
                handle.seek(max(0, path.stat().st_size - 4096))
                lines = handle.read().decode("utf-8", "replace").splitlines()
            last = json.loads(next(line for line in reversed(lines) if line.startswith("{") and line.endswith("}")))
        except (OSError, StopIteration, ValueError):
            return 0
        return int(last["step"]) + (self.config.base.steps if last["stage"] == "unified" else 0)

    def write(self) -> None:
        """Write job.json. Raises ResultError when the folder holds a different job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        text = json.dumps({**asdict(self), "folder": "", "config": self.config.model_dump(mode="json")}, indent=1)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ResultError(
                f"The folder {str(self.folder)!r} holds this arm with other settings; choose another --out, or delete "
                "the folder to run the arm again."
            )
        write_whole(path, text)


def base_job(out: Path, seed: int, arm: Arm) -> Job:
    """The dense base that every arm of a seed starts from."""
    folder = out / BASE / f"seed-{seed}"
    config = changed(
        arm.config,
        seed=seed,
        moe=None,
        wide=None,
        conflict=0.0,
        unified=arm.config.unified.model_copy(update={"steps": 0}),
        loss={k: v for k, v in arm.config.loss.model_dump().items() if k not in (FREE["loss"] or ())},
        optimizer={k: v for k, v in arm.config.optimizer.model_dump().items() if k not in (FREE["optimizer"] or ())},
        output_dir=str(folder / "run"),
        cache_dir=str(out / "cache"),
    )
    return Job(folder, BASE, "the dense base", config, None, "")


def arm_job(out: Path, seed: int, arm: Arm, plan: dict[str, Any]) -> Job:
    """One arm at one seed, from the base of that seed."""
    folder = out / arm.name / f"seed-{seed}"
    config = changed(
        arm.config,
        seed=seed,
        base=arm.config.base.model_copy(update={"steps": 0}),
        dense=str(out / BASE / f"seed-{seed}" / "run" / "model"),
        output_dir=str(folder / "run"),
        cache_dir=str(out / "cache"),
    )
    plan = plan | measured_as(arm.config)
    return Job(folder, arm.name, arm.about, config, plan, common_digest(arm.config, plan))


def measured_as(config: RunConfig) -> dict[str, Any]:
    """The fields of `measure.Plan` that follow from an arm's settings. Empty for an arm of today's world."""
    plan: dict[str, Any] = {"conflict": config.conflict} if config.conflict else {}
    return plan | ({"by_family": True} if config.moe is not None and config.moe.router == "family" else {})


def changed(config: RunConfig, **changes: Any) -> RunConfig:
    """The settings with these top-level settings changed. The result is checked again."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in changes.items()}
    return check_config({**config.model_dump(mode="json"), **plain})


def main(folder: Path) -> int:
    """Do the job recorded in a folder, without repeating finished parts. Returns an exit code."""
    from tagmoe.errors import TagMoEError

    # A shell starts background processes with Ctrl-C ignored. Then no signal would stop this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _stop_with_parent()
    try:
        do(read_job(folder))
    except TagMoEError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        print(f"stopped: {stopped}", flush=True)
        return 130
    return 0


def read_job(folder: Path) -> Job:
    """The job recorded in a folder."""
    data = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return Job(**{**data, "folder": folder, "config": check_config(data["config"])})


def do(job: Job) -> None:
    """Train, edit, judge, write the result."""
    from rich.console import Console

    from tagmoe.laboratory.ablation import measure
    from tagmoe.pipeline.model_folder import RECORD
    from tagmoe.train.recipe import train

    plan = None if job.plan is None else measure.Plan(**job.plan)
    started = time.perf_counter()
    if not job.model.exists():
        validator = measure.curve_validator(plan) if plan is not None else lambda *_: {}
        resume = (job.folder / "run" / RECORD).exists()
        train(job.config, validator=validator, resume=resume, console=Console(file=sys.stdout, width=120))
    if plan is not None:
        _measure(job, plan)
    print(f"done in {time.perf_counter() - started:.0f} s", flush=True)


def _measure(job: Job, plan: Any) -> None:
    import torch

    from tagmoe.laboratory.ablation import measure
    from tagmoe.laboratory.ablation.results import Result
    from tagmoe.pipeline.pipeline import TagMoEPipeline
    from tagmoe.train.recipe import versions

    torch.set_num_threads(job.config.threads or 1)
    pipeline = TagMoEPipeline.from_pretrained(job.model, dtype=torch.float32)
    samples = plan.samples()
    path = job.folder / "edits.safetensors"
    measured = measure.Measured.load(path)
    started = time.perf_counter()
    if measured is None:
        measured = measure.edit_cases(pipeline, samples, plan)
        measured.save(path)
    seconds = time.perf_counter() - started
    steps, curve = read_metrics(job.folder / "run" / "metrics.jsonl")
    config = job.config
    Result(
        arm=job.arm,
        about=job.about,
        seed=config.seed,
        common=job.common,
        settings=portable(config),
        versions=versions(),
        machine=f"{platform.machine()}, {counted(os.cpu_count() or 1, 'core')}",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seconds={"training": round(sum(s["seconds"] for s in steps), 1), "editing": round(seconds, 1)},
        samples=config.unified.steps * config.unified.batch * config.unified.accumulate,
        parameters=parameters_of(pipeline.transformer),
        cases=measure.described(plan, samples),
        verdicts=measure.judged(samples, measured.images),
        flow=plan.meter(pipeline)(pipeline),
        curve=tuple(curve),
        training=tuple({k: v for k, v in s.items() if k != "seconds"} for s in steps if s["step"] % EVERY == 0),
        routing=measure.routed(samples, measured, alignment_of(job)),
    ).write(job.folder / NAME)


def alignment_of(job: Job) -> Any:
    """W_tag and H_pred of the trained arm; None where L_align did not train them."""
    from tagmoe.routing.predicted_tags import Alignment

    aligned = job.config.moe is not None and job.config.loss.lambda_align > 0
    # The tags are read from the paper's signature, the mean over layers of all scores.
    aligned = aligned and job.config.loss.signature == "mean" and not job.config.loss.hard_signature
    return Alignment.load(job.model) if aligned else None


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(steps, validations) of the unified stage."""
    records = [json.loads(line) for line in lines_of(path.read_text(encoding="utf-8"))]
    unified = [{k: v for k, v in r.items() if k != "stage"} for r in records if r["stage"] == "unified"]
    prefix = "validation/"
    curve = [{k.removeprefix(prefix): v for k, v in r.items()} for r in unified if any(k.startswith(prefix) for k in r)]
    return [r for r in unified if "grad_norm" in r], curve


def portable(config: RunConfig) -> dict[str, Any]:
    """The settings without folders, which differ between machines."""
    settings = config.model_dump(mode="json")
    return {k: v for k, v in settings.items() if k not in ("output_dir", "cache_dir", "dense")}


def parameters_of(transformer: Any) -> dict[str, int]:
    """The number of all weights of the transformer, and of those that one token uses."""
    total = sum(p.numel() for p in transformer.parameters())
    experts = sum(p.numel() for name, p in transformer.named_parameters() if ".experts." in name)
    config = transformer.config
    idle = experts * (config.num_experts - config.top_k) // config.num_experts
    return {"all": total, "used": total - idle}


def _stop_with_parent() -> None:
    """Stop after the running step when the parent process dies, which closes standard input."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin: a thread that blocks in it hinders the interpreter's exit
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
