"""What a run must not change in the middle: the kind of processor, and the versions of the software."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import torch

import tagmoe
from tagmoe.train.recipe import versions

ROOMS = ("data/order", "losses", "model", "pipeline", "train", "weights", "world")
"""The parts of the package that decide the numbers of a run."""


def processor() -> str:
    """The kind of processor: its model, and the vector instructions that torch uses. A sum's last bits depend on it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def kind_of_machine() -> dict[str, str]:
    """What must be equal to go on with a run that was begun."""
    return {"processor": processor(), **{name: version for name, version in versions().items() if name != "tagmoe"}}


def code_digest() -> str:
    """A digest of the source that decides the numbers of a run, so that results of other code can be told."""
    root = Path(tagmoe.__file__).parent
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
