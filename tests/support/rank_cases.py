"""Short trainings of a tiny mixture in one process or in several, for the tests of ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from support.training_runs import opened_mixture
from tagmoe.config import RunConfig
from tagmoe.train.components_folder import read_components
from tagmoe.train.engine import prepare_blocks, train_sharded
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.ranks import ALONE, Ranks, ranks_of
from tagmoe.train.recipe import assemble
from tagmoe.train.stage import Draw, FlowStage
from tagmoe.train.trained import choose_trained

PATIENCE = 90
"""Seconds for each case, after which ranks that wait for each other are given up. It takes about two alone."""


def launch(folder: Path, cases: Mapping[str, RunConfig], ranks: int, **special: str) -> dict[str, Any]:
    """Train the cases one after the other in so many processes; returns what each has left, by name.

    special: by case, the name of one of `SPECIAL`.
    """

    def work() -> None:
        with ranks_of("cpu") as joined:
            for name, config in cases.items():
                result = trained(config, joined, special.get(name))
                if joined.is_first:
                    torch.save(result, folder / f"{name}.pt")

    in_ranks(folder, work, ranks, PATIENCE * (1 + len(cases)))
    return {name: torch.load(folder / f"{name}.pt") for name in cases}


@contextmanager
def forked(folder: Path, work: Callable[[], object], ranks: int) -> Iterator[list[Any]]:
    """The work in so many processes, with the variables that torchrun sets. They write into `folder` what failed.

    The processes are forked: they need not import torch again. What is left of them at the end is killed.
    """
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_rank, args=(folder, work, r, ranks, port)) for r in range(ranks)]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def in_ranks(folder: Path, work: Callable[[], object], ranks: int, patience: float = 3 * PATIENCE) -> None:
    """Let so many processes do the work as in `forked`, and wait for them: at most `patience` seconds."""
    with forked(folder, work, ranks) as workers:
        end = time.monotonic() + patience
        while time.monotonic() < end and any(worker.is_alive() for worker in workers):
            if any(worker.exitcode for worker in workers):
                break
            time.sleep(0.05)
        codes = [worker.exitcode for worker in workers]
    said = "".join(path.read_text() for path in folder.glob("*.failed"))
    assert codes == [0] * ranks, f"exit codes {codes} (None: still waiting)\n{said}"


def _rank(folder: Path, work: Callable[[], object], rank: int, ranks: int, port: int) -> None:
    """One process of `in_ranks`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Its loading threads would find the OpenMP pool of the process that was forked.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    try:
        work()
    except BaseException:
        (folder / f"{rank}.failed").write_text(f"rank {rank}\n{traceback.format_exc()}")
        raise


def _untagged(stage: FlowStage, draw: Draw) -> Draw:
    """The second half of every batch has no tags."""
    batch, *rest = draw
    second = [number % stage.config.batch >= stage.config.batch // 2 for number in batch.numbers]
    tags_BK = batch.tags_BK * (~torch.tensor(second)).float().unsqueeze(-1)
    return replace(batch, tags_BK=tags_BK), *rest  # type: ignore[return-value]


def _single(stage: FlowStage, draw: Draw) -> Draw:
    """Every batch has one sample. Ranks beyond the first have one that does not count."""
    batch, noise_BTC, t_B = draw
    tensors = {name: value[:1] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    share = stage._ranks.count / stage.config.batch if stage._ranks.is_first else 0.0
    return replace(batch, **tensors, samples=batch.samples[:1], share=share), noise_BTC[:1], t_B[:1]  # type: ignore


def _without_expert_0(stage: FlowStage) -> None:
    """The second half of every batch sends no token to expert 0."""
    part = stage.config.batch // stage._ranks.count
    first = stage._ranks.rank * part

    def closed(_gate: nn.Module, _inputs: Any, scores_TN: Tensor) -> Tensor:
        samples_T = first + torch.arange(len(scores_TN)) // (len(scores_TN) // part)
        kept_TN = torch.ones_like(scores_TN)
        kept_TN[samples_T >= stage.config.batch // 2, 0] = 0.0
        return scores_TN * kept_TN

    for name, module in stage.transformer.named_modules():
        if name.endswith(".gate"):
            module.register_forward_hook(closed)


SPECIAL = ("lacking", "single")
"""lacking: the second half of every batch has no tags, and sends no token to expert 0. single: see `_single`."""


def _make(config: RunConfig, ranks: Ranks, special: str | None) -> FlowStage:
    assert config.components is not None
    parts = read_components(config.components)
    transformer = opened_mixture(config, parts)
    prepare_blocks(transformer, config)
    choose_trained(transformer, config)
    assert config.cache_dir is not None
    stage = FlowStage(
        "unified", assemble(transformer, parts), config.unified, config.loss, config.optimizer,
        seed=0, cache=Path(config.cache_dir), validator=lambda *_: {}, ranks=ranks,
    )  # fmt: skip
    if special == "lacking":
        _without_expert_0(stage)
    if special is not None:
        change, drawn = {"lacking": _untagged, "single": _single}[special], stage.draw
        stage.draw = lambda step, micro: change(stage, drawn(step, micro))  # type: ignore[method-assign]
    return stage


def trained(config: RunConfig, ranks: Ranks = ALONE, special: str | None = None) -> dict[str, Any]:
    """Train a case. Returns, in rank 0, the terms of every step ("report"), the whole weights of the average and what
    trains ("average"), and the transformer ("model")."""
    stage = _make(config, ranks, special)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, folder, {}, {}, Console(quiet=True))
    if ranks.is_alone:
        average, model = run_stage(stage, run), stage.transformer
    else:
        model, average = train_sharded(stage, run, ranks)
    weights = {name: value.detach().clone() for name, value in average.items()}
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if ranks.is_first else []
    reports = [record for line in lines if "flow" in (record := json.loads(line))]
    return {"report": reports, "average": weights, "load": stage._load.state(), "model": type(model).__name__}
