"""How long the command line takes: help and a cold edit in new processes, and an edit once all is imported and loaded.

New processes are timed in pairs with what they are compared to, in turn, so that other work on the machine meets both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import Figure, report

from tagmoe.extras import EXTRAS

HELP = (
    "import sys; from tagmoe.cli import run; run(['--help']); "
    "print(','.join(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))), file=sys.stderr)"
)
# what the console script does
TAGMOE = [sys.executable, "-c", "from tagmoe.cli import main; main()"]
BARE = [sys.executable, "-c", "pass"]
IMPORT = [sys.executable, "-c", "from diffusers import QwenImagePipeline"]
HELP_RUNS, COLD_RUNS, EDIT_RUNS, STEPS = 11, 5, 5, 12


def seconds_of(command: Sequence[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def pairs(one: Sequence[str], other: Sequence[str], runs: int) -> list[tuple[float, float]]:
    """Seconds of both commands, in turn, after one run of each that fills the caches of the disk."""
    seconds_of(one), seconds_of(other)
    return [(seconds_of(one), seconds_of(other)) for _ in range(runs)]


def ratio(measured: Sequence[tuple[float, float]]) -> float:
    """Median over pairs of the second by the first."""
    return statistics.median(other / one for one, other in measured)


def help_figures() -> list[Figure]:
    """`tagmoe --help` beside a Python that does nothing, and the heavy packages that it imports."""
    measured = pairs(BARE, [*TAGMOE, "--help"], HELP_RUNS)
    shown = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    heavy = len([name for name in shown.stderr.strip().split(",") if name])
    seconds = statistics.median(other for _, other in measured)
    bare = statistics.median(one for one, _ in measured)
    return [
        Figure("help_seconds", seconds, "s", 0.3, runs=HELP_RUNS, note="new process, median"),
        Figure(
            "help_by_bare_python", ratio(measured), "times", 8, runs=HELP_RUNS, note=f"python -c pass: {bare:.3f} s"
        ),
        Figure("help_heavy_imports", heavy, "packages", 0, note="torch, diffusers, transformers"),
    ]


def cold_figures(seed: int) -> list[Figure]:
    """`tagmoe edit` of the packaged model in a new process, beside the import that it cannot do without."""
    from PIL import Image

    from tagmoe.world import sample

    case = sample(seed, 0, split="test", task="recolour")
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "source.png"
        Image.fromarray(case.sources[0]).save(picture)
        edit = ["edit", str(picture), "-p", case.instruction, "-o", f"{folder}/edited.png", "--force", "--seed", "0"]
        measured = pairs(IMPORT, [*TAGMOE, *edit, "--steps", str(STEPS)], COLD_RUNS)
    missing = sorted({name for names in EXTRAS.values() for name in names if find_spec(name) is None})
    extras = f"without {', '.join(missing)}" if missing else "with all extras"
    return [
        Figure(
            "cold_edit_seconds", statistics.median(other for _, other in measured), "s", runs=COLD_RUNS, note=extras
        ),
        Figure(
            "cold_import_seconds", statistics.median(one for one, _ in measured), "s", runs=COLD_RUNS, note=IMPORT[2]
        ),
        Figure("cold_edit_by_import", ratio(measured), "times", 1.15, runs=COLD_RUNS, note=extras),
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
    """How long the command line takes."""
    return [*help_figures(), *cold_figures(seed), edit_figure(model, seed)]


if __name__ == "__main__":
    report(
        measure,
        {
            "model": {"type": Path, "help": "folder of a pipeline; by default the packaged model"},
            "seed": {"type": int, "default": 0, "help": "seed of the edited scenes"},
        },
    )
