"""How long the command line takes: help, and one edit after the imports. See `--help` for the options.

Prints one JSON object with --json, a table on stderr otherwise; exits with 1 when a figure does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELP = (
    "import sys; from tagmoe.cli import run; run(['--help']); "
    "print(','.join(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))), file=sys.stderr)"
)
HELP_RUNS, EDIT_RUNS, STEPS = 7, 5, 12


def figure(name: str, runs: list[float], unit: str, wanted: float, note: str) -> dict[str, object]:
    """A figure that holds when its median is at most `wanted`."""
    value = statistics.median(runs)
    rounded = [round(run, 4) for run in runs]
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "wanted": wanted,
        "holds": value <= wanted,
        "runs": rounded,
        "note": note,
    }


def help_figures() -> list[dict[str, object]]:
    """Seconds of `tagmoe --help` in a new process, and the heavy packages that it imports."""
    seconds, heavy = [], []
    for _ in range(HELP_RUNS):
        started = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        heavy.append(float(len([name for name in result.stderr.strip().split(",") if name])))
    return [
        figure("help_seconds", seconds, "s", 0.5, "tagmoe --help in a new process, median"),
        figure("help_heavy_imports", heavy, "packages", 0, "torch, diffusers and transformers imported by it"),
    ]


def edit_figure(model: Path | None, seed: int) -> dict[str, object]:
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
    return figure("edit_seconds", seconds[1:], "s", 2.0, note)


def machine() -> dict[str, object]:
    """What the seconds depend on; the load says whether the machine was quiet."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def commit() -> str:
    """The commit of the working tree, or "unknown" outside a repository."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="How long the command line takes.")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--model", type=Path, help="folder of a pipeline; by default the packaged model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = [*help_figures(), edit_figure(options.model, options.seed)]
    for one in figures:
        verdict = "holds" if one["holds"] else "DOES NOT HOLD"
        print(f"{one['name']:<20}{one['value']:>8} {one['unit']:<9}wanted {one['wanted']:<5}{verdict}", file=sys.stderr)
    if options.json:
        names = ("tagmoe", "torch", "diffusers", "transformers", "typer")
        versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
        report = {"figures": figures, "versions": versions, "machine": machine()}
        print(json.dumps({**report, "seed": options.seed, "commit": commit()}))
    return 0 if all(one["holds"] for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
