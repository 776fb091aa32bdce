"""What a save costs a training run, and a resume: one process, and two that share the weights by FSDP2 over gloo.

A mixture of width 512 with at least 300 MB of state (weights, average and two moments in fp32) takes real steps in the
loop of a run, which saves every few of them. Time lost by a save is what the steps take longer, from the one before
which the state is copied to the one that finds the checkpoint in its place, each against the median of the other steps.
Every process has one thread.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from figures import Figure, report
from shared_training import Size, TimedStage, in_processes, train

from tagmoe.train.checkpoint import list_checkpoints
from tagmoe.train.ranks import Ranks

SIZE = Size(heads=8, head_dim=64, layers=2, batch=4, side=16, text=32)
EVERY, SAVES, RESUMES = 5, 3, 2
STEPS = EVERY * (SAVES + 1)
WANTED = 0.02
WARM_UP = 2


def measured(ranks: Ranks, folder: Path) -> dict[str, list[float]]:
    """Seconds of usual steps ("step"), of what each save took from the run ("lost") and from the first step after it
    ("copy"), of each resume; and "bytes" of a checkpoint. All but the resume are those that rank 0 sees."""
    stage, _ = train(ranks, SIZE, folder, steps=STEPS, save_every=EVERY)
    found = costs(stage)
    path = list_checkpoints(folder / "checkpoints" / "unified")[-1]
    found["bytes"] = [sum(file.stat().st_size for file in path.iterdir())]
    resumed = []
    for _ in range(RESUMES):
        stage, seconds = train(ranks, SIZE, folder, steps=STEPS, save_every=EVERY)
        assert not stage.begun, "it goes on from its last step"
        resumed.append(seconds)
    return found | {"resume": resumed}


def costs(stage: TimedStage) -> dict[str, list[float]]:
    """What `measured` says of the steps of a stage that has saved."""
    took = [after - before for before, after in pairwise(stage.begun)]
    touched: dict[int, list[int]] = {}
    for save in range(1, SAVES + 1):
        copied = save * EVERY - 1
        writing = (step for step in range(copied + 1, len(took)) if stage.newest[step] < save * EVERY)
        touched[save] = [copied, *writing]
    steps = {step for one in touched.values() for step in one}
    usual = [seconds for step, seconds in enumerate(took) if step >= WARM_UP and step not in steps]
    median = statistics.median(usual)
    return {
        "step": usual,
        "lost": [sum(took[step] - median for step in one) for one in touched.values()],
        "copy": [took[one[0]] - median for one in touched.values()],
    }


def measure() -> Sequence[Figure]:
    """Measure the time that a save takes from 100 steps, and the time of a resume."""
    figures = []
    for count, name in ((1, "1 process"), (2, "2 processes")):
        folder = Path(tempfile.mkdtemp(prefix="tagmoe-survival-"))
        try:
            found = in_processes(count, measured, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {found}", file=sys.stderr)
        step = statistics.median(found["step"])
        shares = [lost / (100 * step) for lost in found["lost"]]
        note = f"{min(shares):.4f} to {max(shares):.4f}; {found['bytes'][0] / 1e6:.0f} MB; a step takes {step:.2f} s"
        figures += [
            Figure(f"{name}: lost by a save / 100 steps", statistics.median(shares), "", WANTED, runs=SAVES, note=note),
            Figure(f"{name}: the step with the copy is longer by", statistics.median(found["copy"]), "s", runs=SAVES),
            Figure(f"{name}: resume", statistics.median(found["resume"]), "s", runs=RESUMES),
        ]
    return figures


if __name__ == "__main__":
    report(measure)
