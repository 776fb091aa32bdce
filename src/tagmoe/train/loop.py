"""The training loop: one for every stage (autoencoder, text encoder, dense base, unified model).

A step is a pure function of the weights, the seed and the step number: a stage draws its samples and noise from the
last two. So a resumed run repeats an uninterrupted one bit for bit, and no random state has to be saved.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console
from torch import Tensor, nn

from tagmoe.config import OptimizerConfig, RunConfig
from tagmoe.errors import DivergedError, TrainingError
from tagmoe.train.checkpoint import (
    fill,
    flat_parameters,
    list_checkpoints,
    load_state,
    load_tensors,
    local_parameters,
    optimizer_tensors,
    remove_leftovers,
    restore_modules,
    restore_optimizers,
)
from tagmoe.train.optimizer import learning_rate_factor, make_optimizers, set_learning_rate, short_warm_up
from tagmoe.train.precision import autocast, resolve_precision
from tagmoe.train.ranks import ALONE, Ranks
from tagmoe.train.saving import Saver
from tagmoe.train.sharding import local, spread, whole
from tagmoe.train.shared_checkpoint import check_parts, is_shared, load_parts
from tagmoe.train.watch import Watch

Report = dict[str, float]


class Stage(Protocol):
    """One stage of a run. `modules` are trained; `loss` is a pure function of the weights and the step number."""

    name: str
    steps: int
    accumulate: int
    optimizer: OptimizerConfig
    modules: Mapping[str, nn.Module]

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """The loss of one micro-batch and its terms."""
        ...

    def validate(self, step: int, folder: Path) -> Report:
        """Scores of the averaged weights; {} where a stage has none. Pictures are written into `folder`."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A stage whose checkpoints need more than weights, such as its place in the order of stored rows."""

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint before this step must hold, as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """The inverse of `state`. Raises DataError when the state does not belong to this stage at this step."""
        ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the running step was finished and saved. signum: the signal."""

    def __init__(self, sentence: str, signum: int) -> None:
        super().__init__(sentence)
        self.signum = signum


@dataclass
class Run:
    """Where a run writes and how it shows itself."""

    config: RunConfig
    folder: Path
    settings: dict[str, Any]
    versions: dict[str, str]
    console: Console
    inputs: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what the run starts from, by setting: a path may get another content before a run resumes."""


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _interruptible() -> Iterator[dict[str, int]]:
    """Turn Ctrl-C and SIGTERM into a note that the loop reads between steps; the second one stops at once."""
    asked: dict[str, int] = {}

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked["signum"] = signum

    try:
        previous = {signum: signal.signal(signum, ask) for signum in SIGNALS}
    except ValueError:  # Only the main thread can set signal handlers. In another thread the caller handles signals.
        yield asked
        return
    try:
        yield asked
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


@contextmanager
def averaged_weights(modules: Mapping[str, nn.Module], ema: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the moving average into the modules for the length of a block."""
    current = {name: value.clone() for name, value in local_parameters(modules).items()}
    fill(modules, ema)
    try:
        yield
    finally:
        fill(modules, current)


def run_stage(stage: Stage, run: Run, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Train a stage to its last step, resuming from its newest checkpoint. Returns the averaged weights.

    ranks: those that share the stage, whose modules are sharded among them; each gets its part of the average.

    Raises DivergedError on a loss or gradient that is not finite, naming the step and the last good checkpoint;
    Interrupted after Ctrl-C or SIGTERM, once the state is saved.
    """
    config = run.config
    precision = resolve_precision(config.precision, ranks.device.type)
    # Of all ranks: those that do not write have a folder of their own for the rest.
    folder = Path(config.output_dir) / "checkpoints" / stage.name
    for module in stage.modules.values():
        module.to(ranks.device)
    optimizers = make_optimizers(stage.modules, stage.optimizer)
    if sentence := short_warm_up(stage.name, stage.steps, stage.optimizer):
        run.console.print(sentence)
    ema = _average_of(stage)
    watch = Watch(stage, run, precision, ranks)
    step = 0
    if ranks.is_first:
        remove_leftovers(folder)
        _check_room(stage, run)
    # All go on from the same one, though a folder of a network may show them different ones.
    found = ranks.from_first(partial(list_checkpoints, folder))
    if found:
        state, sums = load_state(found[-1])
        _check_same(stage, run, state, precision)
        step = int(state["step"])
        watch.restore(state.get("watch", {}))
        if isinstance(stage, Stateful):
            stage.restore(state, step)
        if is_shared(found[-1]):
            check_parts(found[-1], sums, ranks)
            load_parts(found[-1], stage.modules, ema, optimizers, ranks)
        else:
            tensors = load_tensors(found[-1], sums)
            restore_modules(stage.modules, tensors["modules"], found[-1])
            restore_optimizers(optimizers, tensors["optimizer"])
            like = flat_parameters(stage.modules)
            ema = {n: local(spread(tensors["ema"][n], like[n])).to(value.device) for n, value in ema.items()}
            del tensors
        run.console.print(f"{stage.name}: resumed at step {step} of {stage.steps}")
        for name, before in state.get("versions", {}).items():
            if before != run.versions.get(name):
                now = run.versions.get(name, "absent")
                run.console.print(f"{name} was {before} and is {now}: the rest may differ from an uninterrupted run.")
    saver = Saver(folder, config.keep_checkpoints, ranks)

    def save(*, wait: bool) -> None:
        if any(ranks.largest(not all(bool(v.isfinite().all()) for v in local_parameters(stage.modules).values()))):
            raise DivergedError(_stopped(stage, step, "a weight is not finite", folder))
        current = flat_parameters(stage.modules)
        state = {
            "stage": stage.name,
            "precision": precision,
            "settings": run.settings,
            "versions": run.versions,
            "inputs": run.inputs,
            "watch": watch.state(),
            **(stage.state(step) if isinstance(stage, Stateful) else {}),
        }
        saver.start(step, {"modules": current, "ema": ema, "optimizer": optimizer_tensors(optimizers)}, current, state)
        if wait:
            saver.finish()

    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    saved = time.monotonic()
    with watch.running(step), saver, _interruptible() as asked:
        while step < stage.steps:
            started = time.perf_counter()
            set_learning_rate(optimizers, learning_rate_factor(step, stage.steps, stage.optimizer))
            report = train_step(stage, step, optimizers, parameters, precision, watch.accepts)
            if watch.stop is not None:
                if all(math.isfinite(value) for value in report.values()):
                    save(wait=True)
                raise DivergedError(_stopped(stage, step + 1, watch.stop, folder))
            step += 1
            decay = min(stage.optimizer.ema_decay, (1 + step) / (10 + step))
            update_average(ema, local_parameters(stage.modules), decay)
            report["seconds"] = time.perf_counter() - started
            watch.done(step, report, optimizers[0].param_groups[0]["lr"])
            last_step = step == stage.steps
            late = config.save_minutes is not None and time.monotonic() - saved >= 60 * config.save_minutes
            # One rank may have had the signal, its clock is its own, and it may know first that a save has failed.
            known = asked.get("signum", 0), late, saver.has_failed, watch.skipped
            signum, late_somewhere, failed, skipped = ranks.largest(*known)
            if skipped:
                watch.report_skipped(step)
            if failed:
                saver.finish()
            if signum or watch.stop or last_step or late_somewhere or step % config.save_every == 0:
                save(wait=bool(signum or watch.stop or last_step))
                saved = time.monotonic()
            if last_step or step % config.validate_every == 0:
                with averaged_weights(stage.modules, ema), torch.no_grad():
                    scores = stage.validate(step, run.folder / "validation")
                watch.validated(step, scores)
            if watch.stop is not None:
                raise TrainingError(f"{stage.name}: stopped and saved at step {step}, because {watch.stop}")
            if signum:
                raise Interrupted(f"{stage.name}: stopped at step {step} of {stage.steps} and saved.", signum)
    return ema


def _check_same(stage: Stage, run: Run, state: Mapping[str, Any], precision: str) -> None:
    """Raise TrainingError when a checkpoint's precision, or what its run started from, is not that of this run."""
    if state.get("precision", precision) != precision:
        raise TrainingError(
            f"{stage.name} was trained in {state['precision']} so far, but here it would go on in {precision}; "
            f"start with precision: {state['precision']} in the recipe where both processors are used."
        )
    for name, before in state.get("inputs", {}).items():
        if before != run.inputs.get(name, before):
            raise TrainingError(
                f"The files that the setting {name!r} names have changed since {stage.name} was trained to step "
                f"{state['step']}; restore them, or start again in another output_dir."
            )


def _average_of(stage: Stage) -> dict[str, Tensor]:
    """A copy of what trains, for the moving average: beside it, or on the host with `optimizer.ema_offload`."""
    offloaded = stage.optimizer.ema_offload
    return {
        name: value.detach().to("cpu" if offloaded else value.device, copy=True)
        for name, value in local_parameters(stage.modules).items()
    }


def _check_room(stage: Stage, run: Run) -> None:
    """Raise TrainingError when the disk cannot hold a stage's checkpoints: weights, average and two moments each."""
    weights = sum(value.numel() * value.element_size() for value in flat_parameters(stage.modules).values())
    needed = 4 * weights * (run.config.keep_checkpoints + 1)
    free = shutil.disk_usage(run.folder).free
    if stage.steps and free < needed:
        raise TrainingError(
            f"The disk of {str(run.folder)!r} has {free / 1e6:.0f} MB free, and checkpoints of {stage.name} need up to "
            f"{needed / 1e6:.0f} MB; free some space, or set keep_checkpoints lower."
        )


def _stopped(stage: Stage, step: int, why: str, folder: Path) -> str:
    last = list_checkpoints(folder)
    return (
        f"{stage.name}: {why}; this is step {step}, and the last good checkpoint is "
        f"{str(last[-1]) if last else 'none'}. Resume with --set watch.spike=skip to leave such steps out, or start "
        "again with a lower learning rate in another output_dir."
    )


def train_step(
    stage: Stage,
    step: int,
    optimizers: list[torch.optim.Optimizer],
    parameters: list[nn.Parameter],
    precision: str,
    accepts: Callable[[Report], bool] = lambda report: math.isfinite(report["grad_norm"]),
) -> Report:
    """One step. accepts: whether it may change the weights, by its terms and `grad_norm`."""
    total: Report = {}
    for micro in range(stage.accumulate):
        with autocast(precision, parameters[0].device.type):
            loss, terms = stage.loss(step, micro)
        (loss / stage.accumulate).backward()
        for name, value in terms.items():
            total[name] = total.get(name, 0.0) + value / stage.accumulate
    norm = nn.utils.clip_grad_norm_(parameters, stage.optimizer.grad_clip)
    total["grad_norm"] = float(whole(norm, norm))
    # A gradient that is not finite must not reach the weights.
    if accepts(total):
        for optimizer in optimizers:
            optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
    return total


@torch.no_grad()
def update_average(ema: dict[str, Tensor], current: Mapping[str, Tensor], decay: float) -> None:
    floating = [name for name, value in current.items() if value.is_floating_point()]
    # The average may be on the host, so it is the weights that move.
    torch._foreach_lerp_(
        [ema[name] for name in floating], [current[name].to(ema[name].device) for name in floating], 1 - decay
    )
    for name in current.keys() - set(floating):
        ema[name].copy_(current[name])
