"""How fast PhotoWorld composes pairs, and its judge judges, on one core.

python benchmarks/photoworld.py --grounds GROUNDS --cutouts CUTOUTS [--json]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, report

from tagmoe.data.sources.photoworld import PhotoWorldSource
from tagmoe.photoworld import PhotoWorld, judge

RUNS, PAIRS = 5, 200


def measure(grounds: str, cutouts: str) -> Sequence[Figure]:
    """Pairs a second at 64 and 128 pixels, records a second as PNG, ms a judged picture: medians of process time."""
    figures = []
    for size in (64, 128):
        world = PhotoWorld(Path(grounds), Path(cutouts), size=size)
        for index in range(2 * PAIRS):  # warm-up: cut-outs are scaled once a size and cached
            world.sample(0, index)
        rates = []
        for run in range(RUNS):
            started = time.process_time()
            for index in range(PAIRS):
                world.sample(1, PAIRS * run + index)
            rates.append(PAIRS / (time.process_time() - started))
        figures.append(
            Figure(
                f"pairs_{size}", statistics.median(rates), "pairs/s", runs=RUNS, note=f"1 core, {size} px, all tasks"
            )
        )
    source = PhotoWorldSource(world, (Path(grounds), Path(cutouts)), RUNS * PAIRS // 2, seed=2)
    rows, rates = source.rows(), []
    for _ in range(RUNS):
        started = time.process_time()
        records = sum(len(next(rows).records) for _ in range(PAIRS // 2))
        rates.append(records / (time.process_time() - started))
    figures.append(
        Figure("records_128", statistics.median(rates), "records/s", runs=RUNS, note="as PNG, with inverses")
    )
    cases = [world.sample(3, index, split="test") for index in range(PAIRS // 2)]
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        for case in cases:
            judge(case, case.target)
        times.append((time.process_time() - started) / len(cases) * 1000)
    figures.append(Figure("judge_128", statistics.median(times), "ms", runs=RUNS, note="1 core, 128 px"))
    return figures


if __name__ == "__main__":
    report(measure, {"grounds": {"required": True}, "cutouts": {"required": True}})
