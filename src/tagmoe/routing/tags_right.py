"""How often a model's predicted tags are right on its test set. The figures are kept in the model's folder.

They hold only for the weights they were measured with. So the file has a checksum of those, and is ignored for others.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_files import read_object
from tagmoe.pipeline.folder import ALIGNMENT

FILE = "tags_right.json"


@dataclass(frozen=True)
class TagsRight:
    """Figures of predicted tags on test cases: exact sets (with their 95 % interval) and F1, beside the baseline's.

    The baseline always answers the most frequent set of the same cases. `command` measures it again.
    """

    cases: int
    exact: float
    exact_low: float
    exact_high: float
    f1: float
    baseline_exact: float
    baseline_f1: float
    seed: int
    steps: int
    cfg: float
    command: str
    weights: str

    @classmethod
    def load(cls, folder: Path) -> TagsRight | None:
        """The figures in a model folder; None when it has none, or only those of other weights.

        Raises CheckpointError when the file is damaged.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        data = read_object(file)
        wanted = cls.__annotations__
        if data.keys() != wanted.keys() or not all(_fits(data[name], kind) for name, kind in wanted.items()):
            raise CheckpointError(f"{str(file)!r} does not have the expected figures; delete it or measure again.")
        return cls(**data) if data["weights"] == checksum(folder) else None

    def save(self, folder: Path) -> Path:
        """Write the figures beside the weights, whole or not at all."""
        file = folder / FILE
        write_whole(file, json.dumps(asdict(self), indent=1) + "\n")
        return file


def checksum(folder: Path) -> str:
    """SHA-256 of the folder's alignment weights, "" without them. They are small, and every training changes them."""
    file = folder / ALIGNMENT
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _fits(value: Any, kind: str) -> bool:
    """Whether a value in the file has the type of its field. A whole number is a valid float."""
    if kind == "str":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return False
    return kind == "float" or isinstance(value, int)
