"""Where a training run keeps its model: the folder of a run stands for the model in it."""

from __future__ import annotations

from pathlib import Path

from tagmoe.errors import MissingError, UsageError
from tagmoe.sentences import counted

INDEX = "model_index.json"
RECORD = "config.resolved.yaml"
"""The settings of a run, in its folder."""


def model_folder(folder: Path) -> Path:
    """`folder`, or the one model that the folder of a training run holds in it.

    Raises MissingError for a run that is not finished, UsageError for a folder with several models. A folder that holds
    none is returned as it is, for the errors of whoever reads it.
    """
    if (folder / INDEX).is_file() or not folder.is_dir():
        return folder
    # A job of the ablation holds its run, which holds its model.
    found = sorted(file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{INDEX}"))
    found = [path for path in found if path.suffix != ".partial"]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(repr(str(path)) for path in found[:3])
        raise UsageError(f"{str(folder)!r} holds {counted(found, 'model')} ({names}); give one of them.")
    if (folder / RECORD).is_file():
        raise MissingError(
            f"The training run in {str(folder)!r} has no model yet; finish it with tagmoe train --resume, then give it."
        )
    return folder
