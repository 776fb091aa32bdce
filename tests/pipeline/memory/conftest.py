"""The packaged model kept by each plan, what it draws, and the counting of the benchmark."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
TASKS = ("generate", "add", "swap")


@cache
def _benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_of_memory", BENCHMARKS / "memory.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="session")
def benchmark() -> ModuleType:
    return _benchmark()


@pytest.fixture(scope="session")
def draw() -> Callable[[Any], np.ndarray]:
    """Pictures (tasks, 64, 64, 3) that a pipeline draws of fixed cases, as float."""
    from tagmoe.world import sample

    cases = [sample(0, index, task=task, split="test") for index, task in enumerate(TASKS)]

    def pictures(pipeline: Any, count: int = len(TASKS)) -> np.ndarray:
        drawn = [
            pipeline(
                case.instruction,
                [Image.fromarray(source) for source in case.sources] or None,
                num_inference_steps=3,
                seed=3,
            ).images[0]
            for case in cases[:count]
        ]
        return np.stack([np.asarray(picture) for picture in drawn]).astype(float)

    return pictures


@pytest.fixture(scope="session")
def kept() -> Callable[..., Any]:
    """The packaged model loaded by a plan on the CPU, anew each time: offload and forwards change it."""
    import torch

    from tagmoe.pipeline.memory.placing import load_pipeline
    from tagmoe.pipeline.memory.plans import CPU_PLANS, PLANS
    from tagmoe.pipeline.packaged import packaged_folder

    torch.set_num_threads(1)
    plans = {plan.name: plan for plan in (*PLANS, *CPU_PLANS)}

    def load(name: str, **options: Any) -> Any:
        return load_pipeline(packaged_folder(), plans[name], "cpu", **options)

    return load


@pytest.fixture(scope="session")
def loaded(kept: Any) -> Callable[[str], Any]:
    """The packaged model loaded by a plan, once: read it, run and change nothing of it."""
    return cache(kept)


@pytest.fixture(scope="session")
def resident_pictures(kept: Any, draw: Any) -> np.ndarray:
    """What the packaged model draws in full precision."""
    return draw(kept("resident"))
