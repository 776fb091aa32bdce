"""What each stage of the whole path costs for Qwen-Image and 11 million rows; `SCALE=full bash recipes/full_path.sh`.

    python costs.py

The training is planned by `tagmoe train --plan`. The rest multiplies what docs/scale.md measured (M) or counted (C)
for one row; A is assumed, P published. Nobody has run any of it at this size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tagmoe.errors import TrainingError

ROWS = 11_000_000
H100 = 0.4 * 1e15
"""FLOP/s of a card at 40 % of its peak (A)."""
DENSE_GB, MIXTURE_GB = 41, 45.4
"""The transformer of Qwen-Image, and that of the released mixture, in bf16 (C)."""
ROW_MB, ENCODED_MB = 1.45, 2.28
"""A row with its pictures (P), and encoded at 1024x1024 (M)."""
IMPORT_MB_S = 169
CHECKED_S = 230 / 4
"""Pictures of 1024x1024 that one core checks in a second: a fourth of what was measured at 512x512 (M)."""
QUESTION = 2 * 7.6e9 * 2900
"""FLOPs of a question of 2,900 tokens to a model of 7.6 B (C)."""
AUTOENCODER, TEXTS = 2 * 7.4e12, 2 * 1.5e12
"""FLOPs to encode the two pictures and two texts of a row (C)."""
INVERSES = 0.3
"""Largest share of inverse records (`tagmoe data invert --share`)."""
PASSES = 60
"""Of an edit in 30 steps with guidance."""
CASES = 6538
"""Of ICE-Bench (P)."""
PLAN = ("qwen-image/full-64gpu", "--plan", "--memory", "80gb", "--size", "1024x1024", "--ranks", "64", "--json")


def planned() -> dict[str, Any]:
    """The plan of the training. Raises TrainingError where it cannot be made."""
    done = subprocess.run([sys.executable, "-m", "tagmoe", "train", *PLAN], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"The training cannot be planned: {done.stderr.strip()[:500]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def hours(flops: float) -> str:
    """FLOPs as hours of a card."""
    return f"{flops / H100 / 3600:,.0f} H100-hours"


def stages(plan: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(stage, what it costs, from what) of each stage of the path."""
    pile_tb = ROWS * ROW_MB / 1e6
    core_hours = 2 * ROWS / CHECKED_S / 3600
    of_row = plan["batch"]["accumulate"] * plan["batch"]["batch"]
    row, picture = sum(plan["flops"].values()) / of_row, PASSES * plan["flops"]["forward"] / of_row
    return [
        ("base", f"{DENSE_GB} GB to download", "P: Qwen/Qwen-Image"),
        ("upcycle", f"{MIXTURE_GB} GB written, in the time of 1 to 1.5 copies", "M, on 2.8 GB"),
        ("pile", f"{pile_tb:.0f} TB to download", "P"),
        ("import", f"{ROWS * ROW_MB / IMPORT_MB_S / 3600:.0f} h of one process, {pile_tb:.0f} TB", "M"),
        ("validate", f"{core_hours:.0f} core-hours", "M"),
        ("annotate", hours(ROWS * QUESTION), "C, A: a model of 7.6 B"),
        ("agree", "minutes: it reads tags, and 2,000 pictures", "M, small"),
        ("invert", f"up to {INVERSES / (1 - INVERSES) * pile_tb:.0f} TB more, in the time of their import", "C"),
        ("encode", f"{hours(ROWS * (AUTOENCODER + TEXTS))}, {ROWS * ENCODED_MB / 1e6:.0f} TB", "C, A; M"),
        (
            "train",
            f"{hours(ROWS * row)} for one pass, {plan['device_bytes'] / 1e9:.0f} GB a card",
            "--plan, A",
        ),
        ("resume", "the state of each card read once; samples need no search", "C"),
        ("export", f"{MIXTURE_GB} GB written", "C"),
        ("edit", f"{picture / H100:.0f} s on an H100 for a picture of 30 steps", "C, A"),
        ("evaluate", f"{hours(CASES * picture)} for the {CASES:,} cases of ICE-Bench, without judges", "C, A"),
        ("routing", f"{hours(25 * 8 * picture)} for 8 cases of 25 tasks", "C, A"),
    ]


def main() -> None:
    """Print the table."""
    table = Table("stage", "cost", "from", box=box.SIMPLE, title=f"Qwen-Image and {ROWS:,} rows")
    for line in stages(planned()):
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "M measured on 2 cores, C counted, P published, A assumed (40 % of 1,000 TFLOP/s). docs/scale.md has the sums. "
        "Nothing here has run at this size."
    )


if __name__ == "__main__":
    try:
        main()
    except TrainingError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
