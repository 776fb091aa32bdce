"""Time of the command line: of `--help`, and of one edit after the imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, report

HELP = (
    "import sys; from tagmoe.cli import run; run(['--help']); "
    "print(','.join(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))), file=sys.stderr)"
)
HELP_RUNS, EDIT_RUNS, STEPS = 7, 5, 12


def help_figures() -> list[Figure]:
    """Seconds of `tagmoe --help` in a new process, and the heavy packages that it imports."""
    seconds, heavy = [], 0
    for _ in range(HELP_RUNS):
        started = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        heavy = max(heavy, len([name for name in result.stderr.strip().split(",") if name]))
    return [
        Figure("help_seconds", statistics.median(seconds), "s", 0.5, runs=HELP_RUNS, note="new process, median"),
        Figure("help_heavy_imports", heavy, "packages", 0, runs=HELP_RUNS, note="torch, diffusers, transformers"),
    ]


def edit_figure(model: Path | None, seed: int) -> Figure:
    """Seconds of one 64x64 edit once everything is imported and loaded."""
    import torch
    from PIL import Image

    from tagmoe.cli.models import load_model
    from tagmoe.world import sample

    pipeline = load_model(model)
    pipeline.set_progress_bar_config(disable=True)
    seconds = []
    for run in range(EDIT_RUNS + 1):
        case = sample(seed, run, split="test", task="recolour")
        picture = Image.fromarray(case.sources[0])
        started = time.perf_counter()
        pipeline(case.instruction, picture, num_inference_steps=STEPS, seed=seed)
        seconds.append(time.perf_counter() - started)
    note = f"one 64x64 edit, {STEPS} steps, {torch.get_num_threads()} thread(s), after one warm-up, median"
    return Figure("edit_seconds", statistics.median(seconds[1:]), "s", 2.0, runs=EDIT_RUNS, note=note)


def measure(model: Path | None, seed: int) -> Sequence[Figure]:
    """Both figures of the command line."""
    return [*help_figures(), edit_figure(model, seed)]


if __name__ == "__main__":
    report(
        measure,
        {
            "model": {"type": Path, "help": "folder of a pipeline; by default the packaged model"},
            "seed": {"type": int, "default": 0, "help": "seed of the edited scenes"},
        },
    )
