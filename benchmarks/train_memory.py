"""The peak memory of a training run against its plan, on this processor: what trains, with activation checkpointing
and without.

Every case is a process of its own. Its peak is the most resident memory from before the model is made to the end of
three steps in the loop of a run (weights, gradients, states, average, activations), as the system counts it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from figures import Figure, report
from rich.console import Console
from shared_training import in_processes
from train_gpu import RandomStage

from tagmoe.config import RunConfig, check_config
from tagmoe.losses import Objective
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.memory.plans import CPU_PLANS
from tagmoe.pipeline.memory.room import Room
from tagmoe.train.engine import prepare_blocks
from tagmoe.train.heap import map_large_blocks
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.plan import objective, plan_training, transformer_config
from tagmoe.train.ranks import Ranks
from tagmoe.train.trace import Shapes
from tagmoe.train.trained import choose_trained

WIDE = {"num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24]}
TINY = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12]}
SHAPES = Shapes(4, ((16, 16),) * 2, 32)
CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "moe": {"parameters": "moe"},
    "lora": {"parameters": "lora", "lora": {"rank": 16}},
}
STEPS, WANTED = 3, 0.1


def settings(size: dict[str, Any], recompute: bool, changes: dict[str, Any]) -> RunConfig:
    """Of a run in fp32."""
    given = {"base": {"steps": 0}, "unified": {"steps": STEPS, "batch": SHAPES.batch}, "precision": "fp32"}
    return check_config(
        {
            **given, "output_dir": "unused", "transformer": size, "moe": {"num_moe_blocks": 2}, "validate_every": 10**6,
            "activation_checkpointing": recompute, "optimizer": {"name": "adamw"}, "watch": {"page_seconds": None},
            "save_every": 10**6, **changes,
        }
    )  # fmt: skip


def resident(name: str) -> int:
    """Bytes of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def train(config: RunConfig, shapes: Shapes, folder: Path) -> None:
    """The steps of a run of this config, without its last save: that is of the host, as another row of the plan."""
    torch.manual_seed(0)
    model = TagMoETransformer2DModel(**transformer_config(config)).train()
    prepare_blocks(model, config)
    choose_trained(model, config)
    heads = objective(config, transformer_config(config))
    assert isinstance(heads, Objective)
    stage = RandomStage(model, heads, shapes, config.optimizer, steps=STEPS + 1)
    folder.mkdir()
    try:
        run_stage(_Ending(stage), Run(config, folder, {}, {}, Console(quiet=True)))
    except StopIteration:
        return


class _Ending:
    """A stage that ends before the last step, and so before the last save."""

    def __init__(self, stage: RandomStage) -> None:
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def loss(self, step: int, micro: int) -> Any:
        """As of the stage, until the last step."""
        if step == STEPS:
            raise StopIteration
        return self._stage.loss(step, micro)


def peak(_: Ranks, config: RunConfig) -> int:
    """Bytes at the peak of a run above those before it. A tiny run before it loads the libraries."""
    map_large_blocks()  # as `tagmoe train` does on a CPU
    with tempfile.TemporaryDirectory(prefix="tagmoe-memory-") as folder:
        tiny = settings(TINY, config.activation_checkpointing, config.model_dump(include={"parameters"}))
        train(tiny, Shapes(1, ((4, 4),) * 2, 8), Path(folder) / "tiny")
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        train(config, SHAPES, Path(folder) / "run")
        return resident("VmHWM") - before


def measure() -> Sequence[Figure]:
    """Peak memory of training runs against their plans."""
    figures = []
    for name, changes in CASES.items():
        for recompute in (False, True):
            config = settings(WIDE, recompute, changes)
            planned = plan_training(config, Room("cpu", math.inf, math.inf, CPU_PLANS), SHAPES).device
            used = in_processes(1, peak, config)
            note = f"{used / 1e6:.0f} MB, {planned / 1e6:.0f} planned"
            label = f"{name}{', recomputed' if recompute else ''}: off the plan"
            figures.append(Figure(label, abs(used / planned - 1), "of the plan", WANTED, note=note))
    return figures


if __name__ == "__main__":
    report(measure)
