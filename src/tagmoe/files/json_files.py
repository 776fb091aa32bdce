"""Read JSON files that other programs wrote: the result is an object, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError
from tagmoe.sentences import reason_of


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError when it is missing, damaged or something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=names_once)
    except FileNotFoundError:
        raise CheckpointError(
            f"The model folder is incomplete: {str(file)!r} is missing; copy or download it again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"{str(file)!r} is damaged ({reason}); copy or download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{str(file)!r} is damaged (no JSON object); copy or download it again.")
    return value


def names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook: refuse an object with a name twice; json alone would keep the last value."""
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a name occurs twice in it")
    return data
