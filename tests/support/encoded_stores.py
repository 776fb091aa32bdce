"""Stores of TagWorld samples as PNG files, and an encoding of them in another process."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.data.store.record import Picture, Record, Role, record_id
from tagmoe.data.store.store import Store
from tagmoe.world import sample

SEED = 5


def png(pixels: np.ndarray, role: Role = "source") -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Picture(buffer.getvalue(), pixels.shape[1], pixels.shape[0], role)


def record(number: int, **changes: Any) -> Record:
    """TagWorld sample `number`, its mask among the images."""
    case = sample(SEED, number)
    mask = png(case.mask.astype(np.uint8) * 255, "mask")
    fields: dict[str, Any] = {
        "id": record_id("tagworld", str(number)),
        "dataset": "tagworld",
        "target": png(case.target),
        "instruction": case.instruction,
        "licence": "CC0-1.0",
        "images": (*map(png, case.sources), mask),
    }
    return Record(**{**fields, **changes})


def make_store(path: Path, counts: Sequence[int], changes: dict[int, dict[str, Any]] | None = None) -> Store:
    """A store with a fragment of each count, the records by number; `changes` to some of them."""
    store, start = Store.create(path), 0
    with store.writing():
        for count in counts:
            numbers = range(start, start + count)
            store.append([record(number, **(changes or {}).get(number, {})) for number in numbers])
            start += count
    return store


def start_command(store: Path, *options: str) -> subprocess.Popen[str]:
    """`tagmoe data encode STORE` with the packaged model, in a process of its own."""
    code = "import sys; from tagmoe.cli import run; sys.exit(run(sys.argv[1:]))"
    words = ["data", "encode", str(store), "--json", *options]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
