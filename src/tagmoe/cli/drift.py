"""Measure the step-0 drift of an upcycled folder in a process of its own.

So the command that converts never imports torch. If the probe runs out of memory, the converted folder is already
complete.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tagmoe.files.resumable import size_text
from tagmoe.pipeline.memory.room import host_memory
from tagmoe.weights.dtypes import FLOATS, NAMES
from tagmoe.weights.shards import Entry, read_entries

PROBE = "import sys; from tagmoe.cli.drift import probe; probe(*sys.argv[1:])"
# torch, diffusers and the activations of the probe batch
OVERHEAD_BYTES = 10**9


@dataclass(frozen=True)
class Drift:
    """max |moe - dense| / max |dense|, computed in `dtype`. None where it was not measured, with the reason."""

    value: float | None
    dtype: str | None = None
    reason: str = ""


def measure_drift(dense: Path, moe: Path, *, seed: int) -> Drift:
    """Run the probe if the mixture fits into memory, in fp32 or else in the dtype of its files."""
    entries = [entry for entry in read_entries(moe).values() if entry.dtype in FLOATS]
    available = host_memory()
    dtype = "fp32"
    if _needed_bytes(entries, dtype) > available:
        stored = {name: sum(entry.nbytes for entry in entries if entry.dtype == key) for name, key in NAMES.items()}
        dtype = max(stored, key=stored.__getitem__)
    needed = _needed_bytes(entries, dtype)
    if needed > available:
        return Drift(
            None, reason=f"the model takes {size_text(needed)} of memory and {size_text(int(available))} are available"
        )
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(dense), str(moe), dtype, str(seed)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except KeyboardInterrupt:
        return Drift(None, reason="it was interrupted")
    if done.returncode < 0:
        return Drift(None, reason=f"the probe was killed by signal {-done.returncode}, most likely for want of memory")
    try:
        return Drift(float(json.loads(done.stdout.splitlines()[-1])["drift"]), dtype)
    except (ValueError, IndexError, KeyError, TypeError):
        return Drift(None, reason=f"the probe failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}")


def probe(dense: str, moe: str, dtype: str, seed: str) -> None:
    """Measure the drift in the probe's process, and print one JSON object."""
    import torch

    from tagmoe.model.upcycle import drift_of_folders

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    print(json.dumps({"drift": drift_of_folders(Path(dense), Path(moe), dtype=kinds[dtype], seed=int(seed))}))


def _needed_bytes(entries: list[Entry], dtype: str) -> int:
    width = 4 if dtype == "fp32" else 2
    return sum(prod(entry.shape) for entry in entries) * width + OVERHEAD_BYTES
