"""Training speed at TagWorld size, and which operators take the time."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from figures import ALL, LEFT_OUT, Figure, emulates_bf16, report

from tagmoe.config import check_config
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor
from tagmoe.model.upcycle import upcycle
from tagmoe.train.components_folder import read_components
from tagmoe.train.loop import train_step
from tagmoe.train.optimizer import make_optimizers
from tagmoe.train.recipe import assemble, dense_transformer
from tagmoe.train.stage import FlowStage

BATCH = 128
RUNS = 5


def stage(processor: bool, folder: Path) -> FlowStage:
    """The unified stage at the packaged model's size. processor: use real-valued RoPE instead of diffusers' own."""
    config = check_config(
        {
            "output_dir": "unused",
            "base": {"steps": 0},
            "unified": {"steps": 100, "batch": BATCH, "unique_samples": 4 * BATCH},
        }
    )
    parts = read_components("packaged")
    moe = upcycle(dense_transformer(config, parts), **config.moe.model_dump())
    if processor:
        moe.set_attn_processor(RealRoPEAttnProcessor())
    return FlowStage(
        "unified", assemble(moe, parts), config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {},
    )  # fmt: skip


def seconds_a_step(work: FlowStage, precision: str) -> float:
    """Median CPU seconds of a whole step (draw from the cache, forward, backward, clip, Muon and AdamW)."""
    config = check_config(
        {"output_dir": "unused", "precision": precision, "base": {"steps": 0}, "unified": {"steps": 1}}
    )
    optimizers = make_optimizers(work.modules, config.optimizer)
    parameters = [p for module in work.modules.values() for p in module.parameters()]
    times = []
    for run in range(RUNS + 2):
        started = time.process_time()
        train_step(work, 1 + run % 3, optimizers, parameters, precision)
        times.append(time.process_time() - started)
    return statistics.median(times[2:])


def measure(all: bool) -> Sequence[Figure]:
    """Samples a second of one core, by precision and attention. Prints the operators of a step on stderr."""
    torch.set_num_threads(1)
    figures = []
    precisions = ["fp32"] if not all and emulates_bf16() else ["fp32", "bf16"]
    if len(precisions) == 1:
        figures.append(Figure("bf16", 0, "measured", note=LEFT_OUT))
    with tempfile.TemporaryDirectory() as name:
        fast, stock = stage(True, Path(name)), stage(False, Path(name))
        for step in (1, 2, 3):  # fill the latent cache outside the timing
            fast.draw(step, 0)
        for label, work in (("real_rope", fast), ("diffusers_attention", stock)):
            for precision in precisions:
                seconds = seconds_a_step(work, precision)
                figures.append(
                    Figure(
                        f"train_{label}_{precision}",
                        BATCH / seconds,
                        "samples/s",
                        runs=RUNS,
                        note=f"1 core, batch {BATCH}",
                    )
                )
        config = check_config(
            {"output_dir": "unused", "precision": precisions[-1], "base": {"steps": 0}, "unified": {"steps": 1}}
        )
        optimizers = make_optimizers(fast.modules, config.optimizer)
        parameters = [p for module in fast.modules.values() for p in module.parameters()]
        with torch.profiler.profile() as profile:
            train_step(fast, 1, optimizers, parameters, precisions[-1])
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=14), file=sys.stderr)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [*figures, Figure("train_peak_memory", memory, "GiB", 4.0, note="this process, both models")]


if __name__ == "__main__":
    report(measure, {"all": ALL})
