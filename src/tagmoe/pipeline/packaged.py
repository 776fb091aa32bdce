"""Files that ship with the package: the tiny TagWorld model, and example pictures to edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.errors import MissingError, UsageError

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

FOLDER = Path(__file__).parent / "tagworld"
EXAMPLES = Path(__file__).parent / "examples"


def packaged_folder() -> Path:
    """Path of the packaged model. Raises MissingError where the installation lacks it."""
    if not (FOLDER / "model_index.json").is_file():
        raise MissingError(f"The packaged TagWorld model is missing from {str(FOLDER)!r}; reinstall tagmoe.")
    return FOLDER


def example(name: str) -> Path:
    """Path of a packaged picture to try an edit on, such as "scene".

    Raises UsageError for an unknown name.
    """
    known = {path.stem: path for path in sorted(EXAMPLES.glob("*.png"))}
    if name not in known:
        raise UsageError(f"There is no example picture {name!r}; the package holds {', '.join(known) or 'none'}.")
    return known[name]


def picture_path(path: Path) -> Path:
    """The path as it was typed, or for "example:NAME" the path of that packaged picture."""
    prefix, _, name = str(path).partition(":")
    return example(name) if prefix == "example" else path


def load_packaged() -> TagMoEPipeline:
    """The packaged TagWorld model as a pipeline, in fp32."""
    import torch

    from tagmoe.pipeline.pipeline import TagMoEPipeline

    return TagMoEPipeline.from_pretrained(packaged_folder(), dtype=torch.float32)
