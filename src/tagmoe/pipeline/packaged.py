"""What ships with the package: the TagWorld model, a folder of real classes at tiny size, and pictures to edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.errors import MissingError, UsageError

if TYPE_CHECKING:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

FOLDER = Path(__file__).parent / "tagworld"
EXAMPLES = Path(__file__).parent / "examples"


def packaged_folder() -> Path:
    """Path of the packaged model. Raises MissingError where an installation left it out."""
    if not (FOLDER / "model_index.json").is_file():
        raise MissingError(f"The packaged TagWorld model is missing from {str(FOLDER)!r}; reinstall tagmoe.")
    return FOLDER


def example(name: str) -> Path:
    """Path of a packaged picture to try an edit on, such as "scene".

    Raises UsageError for a name that is none of them.
    """
    known = {path.stem: path for path in sorted(EXAMPLES.glob("*.png"))}
    if name not in known:
        raise UsageError(f"There is no example picture {name!r}; the package holds {', '.join(known) or 'none'}.")
    return known[name]


def picture_path(path: Path) -> Path:
    """The path that a user typed, or that of the packaged picture which "example:NAME" names."""
    prefix, _, name = str(path).partition(":")
    return example(name) if prefix == "example" else path


def load_packaged() -> TagMoEPipeline:
    """The packaged TagWorld model as a pipeline, in fp32."""
    import torch

    from tagmoe.pipeline.pipeline import TagMoEPipeline

    return TagMoEPipeline.from_pretrained(packaged_folder(), dtype=torch.float32)
