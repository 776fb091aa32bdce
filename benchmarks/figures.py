"""The one output format of every benchmark: a table on stderr, with --json one object on stdout.

The exit code is 1 when a figure does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Figure:
    """One measured number. `wanted` is its bound; None means that the number only informs."""

    name: str
    value: float
    unit: str
    wanted: float | None = None
    at_least: bool = False
    runs: int = 1
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number keeps its bound."""
        if self.wanted is None:
            return True
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


def product_speed(dtype: Any, side: int = 768) -> float:
    """FLOPs a second of a square product on this processor, with the threads that torch has: the best of five."""
    import torch

    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])


def emulates_bf16() -> bool:
    """Whether this processor has no units for bf16: there a product in bf16 takes longer than in fp32."""
    import torch

    return product_speed(torch.bfloat16) < 0.8 * product_speed(torch.float32)


LEFT_OUT = "left out: this processor only emulates bf16; --all measures it"
ALL = {"action": "store_true", "help": "also what this processor emulates, or has no time for in 10 minutes"}


def report(measure: Callable[..., Sequence[Figure]], options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Run the benchmark's `measure`, print its figures, exit.

    options: further command-line options, each with its arguments to argparse. `measure` gets their values by name.
    """
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    for name, settings in (options or {}).items():
        parser.add_argument(f"--{name}", **settings)
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    figures = list(measure(**given))
    for figure in figures:
        bound = "" if figure.wanted is None else f"  wanted {'>=' if figure.at_least else '<='} {figure.wanted:g}"
        verdict = "ok  " if figure.holds else "FAIL"
        print(
            f"{verdict} {figure.name:36s} {figure.value:10.3f} {figure.unit:12s}{bound}  {figure.note}", file=sys.stderr
        )
    if as_json:
        print(
            json.dumps(
                {
                    "figures": [{**asdict(figure), "holds": figure.holds} for figure in figures],
                    "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                    "machine": f"{_processor()}, {_cores()} cores",
                    "load": [round(value, 2) for value in os.getloadavg()],
                    "seed": given.get("seed", 0),
                    "commit": _commit(),
                },
                indent=1,
            )
        )
    sys.exit(0 if all(figure.holds for figure in figures) else 1)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cores() -> int:
    return os.cpu_count() or 1


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or "unknown"
