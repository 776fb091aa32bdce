"""Real pictures and sources of edits, made small for the tests of importing and exporting."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@cache
def picture_bytes(number: int, kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    """An encoded picture; another number is another picture."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def jsonl_folder(folder: Path, count: int, *, size: tuple[int, int] = (8, 6), name: str = "edits.jsonl") -> Path:
    """A JSONL file of `count` good edits with their pictures; returns the file."""
    lines: list[dict[str, Any]] = []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        before, after = (f"pictures/{number}-{side}.png" for side in ("before", "after"))
        (folder / before).write_bytes(picture_bytes(2 * number, size=size))
        (folder / after).write_bytes(picture_bytes(2 * number + 1, size=size))
        lines.append({"instruction": f"edit {number}", "input_images": [before], "output_image": after})
    return write_lines(folder / name, lines)


def write_lines(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    """Write JSONL; a text stands as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path
