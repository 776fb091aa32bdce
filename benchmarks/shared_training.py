"""Training for the benchmarks of several processes: random batches through the loop, the sharding and the saves of a
run, in as many processes as are asked for, over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from train_gpu import RandomStage

from tagmoe.config import OptimizerConfig, RunConfig, check_config
from tagmoe.losses import Objective
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.train.checkpoint import list_checkpoints
from tagmoe.train.loop import Report, Run, run_stage
from tagmoe.train.ranks import Ranks, ranks_of
from tagmoe.train.sharding import shard
from tagmoe.train.trace import Shapes

PATIENCE = 600
"""Seconds for the processes of one measurement."""


@dataclass(frozen=True)
class Size:
    """One size of model and batch. side: the target and its reference have side x side tokens each. batch: the samples
    of all processes together."""

    heads: int
    head_dim: int
    layers: int
    batch: int
    side: int
    text: int


@dataclass
class TimedStage(RandomStage):
    """Notes when each step begins, the CPU time until then, and the newest checkpoint at that time."""

    folder: Path = Path()
    begun: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    newest: list[int] = field(default_factory=list)

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """As of `RandomStage`."""
        self.begun.append(time.perf_counter())
        self.worked.append(time.process_time())
        self.newest.append(max((int(path.name) for path in list_checkpoints(self.folder)), default=0))
        return super().loss(step, micro)


def settings(folder: Path, steps: int, save_every: int) -> RunConfig:
    """Those of a run that trains and saves, and does nothing else."""
    return check_config(
        {
            "output_dir": str(folder), "base": {"steps": 0}, "unified": {"steps": steps}, "precision": "fp32",
            "save_every": save_every, "validate_every": 10**6, "optimizer": {"name": "adamw"},
            "watch": {"page_seconds": None},
        }
    )  # fmt: skip


def train(ranks: Ranks, size: Size, folder: Path, *, steps: int, save_every: int) -> tuple[TimedStage, float]:
    """Train so many steps, or go on from what is in the folder. Returns the stage and the seconds of it all."""
    torch.manual_seed(0)
    axes = (size.head_dim // 4, size.head_dim * 3 // 8, size.head_dim * 3 // 8)
    model = TagMoETransformer2DModel(
        num_layers=size.layers, attention_head_dim=size.head_dim, num_attention_heads=size.heads, axes_dims_rope=axes,
        joint_attention_dim=size.heads * size.head_dim, num_moe_blocks=1,
    ).train()  # fmt: skip
    objective = Objective(4, 64)
    shapes = Shapes(size.batch // ranks.count, ((size.side, size.side),) * 2, size.text)
    config = settings(folder, steps, save_every)
    stage = TimedStage(
        model, objective, shapes, OptimizerConfig(name="adamw"), steps=steps, folder=folder / "checkpoints" / "unified"
    )
    if not ranks.is_alone:
        shard(model, objective, ranks, precision="fp32", replicate=1)
    started = time.perf_counter()
    run_stage(stage, Run(config, folder, {}, {}, Console(quiet=True)), ranks)
    return stage, time.perf_counter() - started


def in_processes(count: int, work: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """What `work(ranks, *arguments)` gives in rank 0 of so many new processes, each of so many threads."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.Queue()
    workers = [
        context.Process(target=_process, args=(rank, count, port, threads, answers, work, arguments))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        return answers.get(timeout=PATIENCE)
    finally:
        for worker in workers:
            worker.join(30)
            worker.kill()


def _process(
    rank: int, count: int, port: int, threads: int, answers: Any, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    with ranks_of("cpu") as ranks:
        found = work(ranks, *arguments)
        if ranks.is_first:
            answers.put(found)
