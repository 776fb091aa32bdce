"""The peak of a real run against its plan: weights, gradients, states, average and activations together."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tagmoe.pipeline.memory.plans import CPU_PLANS
from tagmoe.pipeline.memory.room import Room
from tagmoe.train.plan import plan_training
from tagmoe.train.trace import Shapes

SMALL = {"num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12]}
SHAPES = Shapes(4, ((8, 8),) * 2, 16)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("train_memory")


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that torch's allocator has handed out at one time while the work is done."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = sorted(
        (event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"),
        key=lambda event: event.start_ns(),
    )
    return max(accumulate(event.nbytes() for event in events))


@pytest.mark.slow_but_first
@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "kept"])
@pytest.mark.parametrize("name", ["moe", "all", "lora"])
def test_a_run_takes_the_memory_that_is_planned(name: str, recompute: bool, benchmark: Any, tmp_path: Path) -> None:
    config = benchmark.settings(SMALL, recompute, benchmark.CASES[name])
    planned = plan_training(config, Room("cpu", math.inf, math.inf, CPU_PLANS), SHAPES).device
    torch.set_num_threads(1)
    used = allocated(lambda: benchmark.train(config, SHAPES, tmp_path / "run"))
    print(f"{name}: {used / 1e6:.1f} MB, {planned / 1e6:.1f} planned")
    assert used == pytest.approx(planned, rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_take_the_memory_that_is_planned(benchmark: Any) -> None:
    """As the system counts it, at a size where a process is little beside its model."""
    for figure in benchmark.measure():
        assert figure.holds, figure
