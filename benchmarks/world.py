"""How fast TagWorld draws samples and the oracle reads pictures, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from figures import Figure, report

from tagmoe.world import judge, sample


def measure() -> Sequence[Figure]:
    """Rendered samples a second (source and target), and milliseconds a judged picture: medians of 5, process time."""
    for index in range(2000):  # warm-up: sprites and backgrounds are drawn once and cached
        sample(0, index)
    rates = []
    for run in range(5):
        started = time.process_time()
        for index in range(1000):
            sample(1, 1000 * run + index)
        rates.append(1000 / (time.process_time() - started))
    cases = [sample(2, index, split="test") for index in range(300)]
    for drawn in cases[:100]:
        judge(drawn, drawn.target)
    reads = []
    for run in range(5):
        started = time.process_time()
        for drawn in cases[100 + 40 * run : 140 + 40 * run]:
            judge(drawn, drawn.target)
        reads.append((time.process_time() - started) / 40 * 1000)
    return [
        Figure(
            "world_samples_per_second",
            statistics.median(rates),
            "samples/s",
            1000,
            at_least=True,
            runs=5,
            note="1 core",
        ),
        Figure("oracle_judge", statistics.median(reads), "ms", runs=5, note="1 core, mixed settings"),
    ]


if __name__ == "__main__":
    report(measure)
