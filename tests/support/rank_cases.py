"""Short trainings of a tiny mixture in one process or in several, for the tests of ranks.

As a script, under torchrun: `rank_cases.py FOLDER` trains every case of FOLDER/cases.json and writes FOLDER/<name>.pt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from support.training_runs import opened_mixture
from tagmoe.config import RunConfig, check_config
from tagmoe.train.components_folder import read_components
from tagmoe.train.engine import prepare_blocks, train_sharded
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.ranks import ALONE, Ranks, ranks_of
from tagmoe.train.recipe import assemble
from tagmoe.train.stage import Draw, FlowStage
from tagmoe.train.trained import choose_trained

PATIENCE = 120
"""Seconds after which ranks that wait for each other are given up. A case takes about one."""


def launch(folder: Path, cases: Mapping[str, RunConfig], ranks: int, **special: str) -> dict[str, Any]:
    """Train the cases one after the other in so many processes of torchrun; returns what each has left, by name.

    special: by case, the name of a `SPECIAL`.
    """
    folder.mkdir(exist_ok=True)
    written = {name: {"config": c.model_dump(mode="json"), "special": special.get(name)} for name, c in cases.items()}
    (folder / "cases.json").write_text(json.dumps(written))
    done = torchrun([__file__, str(folder)], ranks)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: torch.load(folder / f"{name}.pt") for name in cases}


def torchrun(arguments: list[str], ranks: int, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run torchrun on this machine, at a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *arguments]
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join([tests, *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def _untagged(stage: FlowStage, draw: Draw) -> Draw:
    """The second half of every batch has no tags."""
    batch, *rest = draw
    second = [(batch.first + row) % stage.config.batch >= stage.config.batch // 2 for row in range(len(batch.tags_BK))]
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


SPECIAL = ("untagged", "single", "without_expert_0")


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
    if special == "without_expert_0":
        _without_expert_0(stage)
    elif special is not None:
        change, drawn = {"untagged": _untagged, "single": _single}[special], stage.draw
        stage.draw = lambda step, micro: change(stage, drawn(step, micro))  # type: ignore[method-assign]
    return stage


def trained(config: RunConfig, ranks: Ranks = ALONE, special: str | None = None) -> dict[str, Any]:
    """Train a case. Returns, in rank 0, the terms of every step ("report"), the whole weights of the average and what
    trains ("average"), and the transformer ("model")."""
    stage = _make(config, ranks, special)
    reports: list[dict[str, float]] = []

    class Noted(Run):
        def metrics(self, stage: str, step: int) -> Any:
            from contextlib import nullcontext

            return nullcontext(lambda at, numbers: reports.append(dict(numbers)))

    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    run = Noted(config, Path(config.output_dir), {}, {}, Console(quiet=True))
    if ranks.count == 1:
        average, model = run_stage(stage, run), stage.transformer
    else:
        model, average = train_sharded(stage, run, ranks)
    weights = {name: value.detach().clone() for name, value in average.items()}
    return {"report": reports, "average": weights, "load": stage._load.state(), "model": type(model).__name__}


def main() -> None:
    """One rank of torchrun."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with ranks_of("cpu") as ranks:
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            result = trained(check_config(case["config"]), ranks, case["special"])
            if ranks.is_first:
                torch.save(result, folder / f"{name}.pt")


if __name__ == "__main__":
    main()
