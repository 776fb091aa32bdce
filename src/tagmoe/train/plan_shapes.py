"""The sizes of the largest micro-batch of a recipe, for its plan."""

from __future__ import annotations

from math import ceil

from tagmoe.config import RunConfig
from tagmoe.files.json_files import read_object
from tagmoe.train.components_folder import components_path
from tagmoe.train.trace import Shapes
from tagmoe.world import SIZE

FULL_SIDE, FULL_TEXT = 1024, 128
"""What is planned for a store, when nothing else is said; those of `tagmoe.pipeline.memory.sizes`."""
LATENT = 8
"""Pixels of a side that a latent of Qwen-Image's autoencoder stands for."""


def shapes_of(config: RunConfig, size: tuple[int, int] | None, references: int, ranks: int = 1) -> Shapes:
    """The part of one of so many ranks in a micro-batch of stage unified. size: (width, height) of all pictures; by
    default TagWorld's, or for a store the full size. The text has as many tokens as the components read at most, or 128
    where they do not say."""
    width, height = size or ((SIZE, SIZE) if config.data is None else (FULL_SIDE, FULL_SIDE))
    stride, text = LATENT * 2, FULL_TEXT
    if config.components is not None and (folder := components_path(config.components)).is_dir():
        # Every level of the autoencoder but the first halves the picture.
        stride = 2 ** len(read_object(folder / "vae" / "config.json").get("dim_mult", (1, 2, 4, 4)))
        text = min(text, read_object(folder / "model_index.json").get("max_prompt_tokens") or text)
    grid = ceil(height / stride), ceil(width / stride)
    return Shapes(ceil(config.unified.batch / ranks), (grid,) * (1 + references), text)
