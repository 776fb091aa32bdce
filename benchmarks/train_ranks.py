"""Two processes that share the weights by FSDP2 over gloo, against one process on the same global batch and cores.

One process has two threads, two have one each, so it needs two free cores. They take turns. A figure is the ratio of
the medians of their steps.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, report
from shared_training import Size, in_processes, train

from tagmoe.train.ranks import Ranks

SIZES = {
    "tagworld": (Size(heads=4, head_dim=32, layers=6, batch=128, side=4, text=20), 9),
    "d512": (Size(heads=8, head_dim=64, layers=2, batch=4, side=16, text=32), 5),
}
"""(size, timed steps of a turn): that of TagWorld's trainer, and one of fewer samples and wider layers."""
CORES, TURNS, WARM_UP = 2, 2, 2
WANTED = 1.15


def steps_of(ranks: Ranks, size: Size, steps: int, folder: Path) -> list[float]:
    """Seconds of so many steps, from one to the next."""
    stage, _ = train(ranks, size, folder, steps=steps + WARM_UP + 1, save_every=10**6)
    return [after - before for before, after in zip(stage.begun, stage.begun[1:], strict=False)][WARM_UP:]


def measure(sizes: str) -> Sequence[Figure]:
    """Time a sample in two processes against one on the same global batch."""
    figures = []
    for name in SIZES if sizes == "all" else [sizes]:
        size, steps = SIZES[name]
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(2 * TURNS):
            count = 1 + turn % 2
            with tempfile.TemporaryDirectory(prefix="tagmoe-ranks-") as folder:
                seconds[count] += in_processes(count, steps_of, size, steps, Path(folder), threads=CORES // count)
        one, two = (statistics.median(seconds[count]) for count in (1, 2))
        note = f"of {one / size.batch * 1e3:.1f} ms a sample in 1 process of 2 threads"
        figures.append(Figure(f"{name}: 2 processes to 1", two / one, "x", WANTED, runs=TURNS * steps, note=note))
    return figures


if __name__ == "__main__":
    report(measure, {"sizes": {"default": "all", "choices": ["all", *SIZES], "help": "which size"}})
