"""Two processes that share the weights by FSDP2 over gloo, against one process on the same global batch and cores.

With two cores one process has two threads and two have one each; a figure is the ratio of the medians of their steps.
Beside other work that says nothing: threads and ranks wait for the one that is held up. With --cores 1 every process
has one thread, and the CPU time of all is compared: what the steps would take on free cores.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from figures import Figure, report
from shared_training import Size, in_processes, train

from tagmoe.train.ranks import Ranks

SIZES = {
    "tagworld": (Size(heads=4, head_dim=32, layers=6, batch=128, side=4, text=20), 5),
    "d512": (Size(heads=8, head_dim=64, layers=2, batch=4, side=16, text=32), 3),
}
"""(size, timed steps of a turn): that of TagWorld's trainer, and one of fewer samples and wider layers."""
TURNS, WARM_UP = 2, 2
WANTED = 1.15


def steps_of(ranks: Ranks, size: Size, steps: int, folder: Path, cpu: bool) -> list[float]:
    """Seconds of so many steps, from one to the next. cpu: CPU seconds of all processes together."""
    stage, _ = train(ranks, size, folder, steps=steps + WARM_UP + 1, save_every=10**6)
    times = ranks.sum(torch.tensor(stage.worked, dtype=torch.float64)).tolist() if cpu else stage.begun
    return [after - before for before, after in pairwise(times)][WARM_UP:]


def measure(sizes: str, cores: int) -> Sequence[Figure]:
    """Time a sample in two processes against one on the same global batch."""
    figures = []
    for name in SIZES if sizes == "all" else [sizes]:
        size, steps = SIZES[name]
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(2 * TURNS):
            count = 1 + turn % 2
            with tempfile.TemporaryDirectory(prefix="tagmoe-ranks-") as folder:
                given = (size, steps, Path(folder), cores == 1)
                seconds[count] += in_processes(count, steps_of, *given, threads=max(1, cores // count))
        print(f"{name}: {seconds}", file=sys.stderr)
        one, two = (statistics.median(seconds[count]) for count in (1, 2))
        what = "CPU time" if cores == 1 else "2 threads"
        note = f"of {one / size.batch * 1e3:.1f} ms a sample in 1 process, {what}"
        figures.append(Figure(f"{name}: 2 processes to 1", two / one, "x", WANTED, runs=TURNS * steps, note=note))
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "sizes": {"default": "all", "choices": ["all", *SIZES], "help": "which size"},
            "cores": {"type": int, "default": 2, "choices": [1, 2], "help": "1: compare CPU time, beside other work"},
        },
    )
