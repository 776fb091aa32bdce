"""Memory of a run on a CPU goes back to the system when its tensors are freed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tagmoe.config import RunConfig
from tagmoe.train import recipe
from tagmoe.train.heap import map_large_blocks

HOLES = """
import sys, torch
from pathlib import Path
from tagmoe.train.heap import map_large_blocks

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

if sys.argv[1] == "mapped":
    assert map_large_blocks()
torch.ones(6 << 20)  # glibc takes its size for the border from here on
before = resident()
blocks = [torch.ones(1 << 20 if number % 2 else 5 << 18) for number in range(40)]
small = [torch.ones(1 << 14) for _ in range(40)]
del blocks[::2]
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_freed_tensor_between_others_leaves_no_hole() -> None:
    used = {}
    for how in ("mapped", "heap"):
        command = [sys.executable, "-c", HOLES, how]
        used[how] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # Twenty blocks of 4 MiB and small ones of 2.5 MB stay, and twenty of 5 MiB are freed.
    assert used["mapped"] < 100e6
    assert used["heap"] > 150e6, "where this fails, glibc has mended it"


def test_the_border_of_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MALLOC_MMAP_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not map_large_blocks()


def test_a_run_on_a_cpu_maps_large_blocks(
    config: Callable[..., RunConfig], run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(recipe, "map_large_blocks", lambda: calls.append(map_large_blocks()))
    run_training(config(base={"steps": 0}, unified={"steps": 0}))
    assert len(calls) == 1
