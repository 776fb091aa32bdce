"""What a save costs a training run, and a resume: one process, and two that share the weights by FSDP2 over gloo.

A model of width 512 with at least 300 MB of state (weights, average and two moments in fp32) takes real steps, forward
and backward. Time lost by a save is the time that the loop waits for the copy, and what the steps take longer
while the thread writes, each against the median of steps before. Every process has one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from figures import Figure, report
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tagmoe.train.checkpoint import (
    flat_parameters,
    list_checkpoints,
    load_state,
    load_tensors,
    local_parameters,
    optimizer_tensors,
    restore_modules,
    restore_optimizers,
)
from tagmoe.train.loop import update_average
from tagmoe.train.ranks import Ranks, ranks_of
from tagmoe.train.saving import Saver
from tagmoe.train.shared_checkpoint import check_parts, is_shared, load_parts

HEADS, HEAD_DIM, LAYERS, SIDE, TEXT = 8, 64, 3, 16, 32
SAMPLES = 4
BEFORE, SAVES = 6, 3
WANTED = 0.02


def _model() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=LAYERS, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=HEADS * HEAD_DIM, axes_dims_rope=(16, 24, 24),
    ).train()  # fmt: skip


class Training:
    """A model, its optimizer and its average, shared by the ranks. The batch is that of all of them."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        model: Any = _model()
        if ranks.count > 1:
            mesh = init_device_mesh("cpu", (ranks.count,))
            for block in model.transformer_blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        self.model = model
        self.modules: Mapping[str, nn.Module] = {"transformer": model}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.ema = {name: value.detach().clone() for name, value in local_parameters(self.modules).items()}
        batch = SAMPLES // ranks.count
        self.batch = {
            "hidden_states": torch.randn(batch, 2 * SIDE**2, 64),
            "encoder_hidden_states": torch.randn(batch, TEXT, HEADS * HEAD_DIM),
            "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool),
            "timestep": torch.rand(batch),
            "img_shapes": [[(1, SIDE, SIDE)] * 2] * batch,
        }

    def step(self) -> float:
        """Train one step; returns its seconds."""
        started = time.perf_counter()
        self.model(**self.batch).sample.square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.ema, local_parameters(self.modules), 0.999)
        return time.perf_counter() - started

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds."""
        own = flat_parameters(self.modules)
        return {"modules": own, "ema": self.ema, "optimizer": optimizer_tensors([self.optimizer])}

    def resume(self, path: Path) -> float:
        """Check and read a checkpoint; returns the seconds."""
        started = time.perf_counter()
        _, sums = load_state(path)
        if is_shared(path):
            check_parts(path, sums, self.ranks)
            load_parts(path, self.modules, self.ema, [self.optimizer], self.ranks)
        else:
            tensors = load_tensors(path, sums)
            restore_modules(self.modules, tensors["modules"], path)
            restore_optimizers([self.optimizer], tensors["optimizer"])
            self.ema = tensors["ema"]
        self.ranks.wait()
        return time.perf_counter() - started


def _measured(ranks: Ranks, folder: Path) -> dict[str, list[float]]:
    """Seconds of steps, of the wait for a save's copy, of all that a save cost, until it was whole, and of a resume."""
    training = Training(ranks)
    training.step()
    found: dict[str, list[float]] = {name: [] for name in ("step", "copy", "lost", "whole", "resume")}
    with Saver(folder, 2, ranks) as saver:
        for number in range(1, SAVES + 1):
            usual = [training.step() for _ in range(BEFORE)]
            started = time.perf_counter()
            state = training.tensors()
            saver.start(number, state, state["modules"], {})
            copied = time.perf_counter() - started
            during = []
            while not _there(folder, number, ranks):
                during.append(training.step())
            found["whole"].append(time.perf_counter() - started)
            found["copy"].append(copied)
            found["step"] += usual
            found["lost"].append(copied + sum(during) - len(during) * statistics.median(usual))
    path = list_checkpoints(folder)[-1]
    found["bytes"] = [sum(file.stat().st_size for file in path.iterdir())]
    found["resume"] = [training.resume(path) for _ in range(3)]
    return found


def _there(folder: Path, number: int, ranks: Ranks) -> bool:
    """Whether rank 0 has put the checkpoint in its place, as all ranks see it."""
    return bool(ranks.largest(ranks.is_first and (folder / f"{number:08d}").is_dir())[0])


def _process(rank: int, count: int, port: int, folder: Path, answers: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with ranks_of("cpu") as ranks:
        found = _measured(ranks, folder)
        if ranks.is_first:
            answers.put(found)


def _in_processes(count: int) -> dict[str, list[float]]:
    folder = Path(tempfile.mkdtemp(prefix="tagmoe-survival-"))
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.Queue()
    try:
        workers = [context.Process(target=_process, args=(rank, count, port, folder, answers)) for rank in range(count)]
        for worker in workers:
            worker.start()
        found: dict[str, list[float]] = answers.get(timeout=600)
        for worker in workers:
            worker.join()
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure() -> Sequence[Figure]:
    """Measure the time that a save takes from 100 steps, and the time of a resume."""
    figures = []
    for count, name in ((1, "1 process"), (2, "2 processes")):
        found = _in_processes(count)
        step = statistics.median(found["step"])
        lost = statistics.median(found["lost"]) / (100 * step)
        size, whole = found["bytes"][0] / 1e6, statistics.median(found["whole"])
        note = f"{size:.0f} MB; a step takes {step:.2f} s; on the disk after {whole:.1f} s"
        figures += [
            Figure(f"{name}: lost by a save / 100 steps", lost, "", WANTED, runs=SAVES, note=note),
            Figure(f"{name}: copy before the next step", statistics.median(found["copy"]), "s", runs=SAVES),
            Figure(f"{name}: resume", statistics.median(found["resume"]), "s", runs=3),
        ]
    return figures


if __name__ == "__main__":
    report(measure)
