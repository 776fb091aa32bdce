"""How much memory a plan may use: that of the GPU or, without one, that of the CPU."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from tagmoe.errors import UsageError
from tagmoe.pipeline.memory.plans import BUDGETS, CHOICES, CPU_PLANS, CPU_RESERVE, PLANS, RESERVE, MemoryPlan


@dataclass(frozen=True)
class Room:
    """Memory to plan with. device: "cuda" or "cpu". budget: bytes that may be used on it. host: bytes of host memory
    beside it. plans: the plans that make sense for the device.
    """

    device: str
    budget: float
    host: float
    plans: tuple[MemoryPlan, ...]

    @property
    def value_bytes(self) -> int:
        """Bytes of a value in full precision: bf16 on a GPU, fp32 on a CPU."""
        return 2 if self.device == "cuda" else 4

    @property
    def quantised_value_bytes(self) -> int:
        """Bytes of a value beside quantised weights: bf16, but fp32 on a processor without units for bf16."""
        from tagmoe.model.cpu.bf16 import has_bf16

        return 2 if self.device == "cuda" or has_bf16() else 4


def memory_room(memory: str = "auto", *, on_gpu: bool | None = None) -> Room:
    """The memory of this machine: for "auto" what is free now, else that of a card of this size ("8gb" to "80gb").

    on_gpu: whether its GPU is used; None: if there is one. Without a GPU the CPU's memory is the device. Raises
    UsageError for a word that is not in `CHOICES`.
    """
    import torch

    if memory not in CHOICES:
        raise UsageError(f"The memory is {memory!r}; give one of {', '.join(CHOICES)}.")
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    if memory != "auto":
        budget = BUDGETS[memory] - (RESERVE if on_gpu else CPU_RESERVE)
    elif on_gpu:
        budget = torch.cuda.mem_get_info()[0] - RESERVE
    else:
        budget = host_memory()
    return Room("cuda", budget, host_memory(), PLANS) if on_gpu else Room("cpu", budget, math.inf, CPU_PLANS)


def host_memory() -> float:
    """Bytes of host memory that are available, or all of it where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
