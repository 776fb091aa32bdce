"""The TagWorld model that ships with the package: a folder of real classes at tiny size, see its README.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.errors import MissingError

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

FOLDER = Path(__file__).parent / "tagworld"


def packaged_folder() -> Path:
    """Path of the packaged model. Raises MissingError where an installation left it out."""
    if not (FOLDER / "model_index.json").is_file():
        raise MissingError(f"The packaged TagWorld model is missing from {str(FOLDER)!r}; reinstall tagmoe.")
    return FOLDER


def load_packaged() -> TagMoEPipeline:
    """The packaged TagWorld model as a pipeline, in fp32."""
    import torch

    from tagmoe.pipeline.pipeline import TagMoEPipeline

    return TagMoEPipeline.from_pretrained(packaged_folder(), dtype=torch.float32)
