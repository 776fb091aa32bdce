"""Turn pictures into a pipeline's inputs: lists of references for each prompt, and pixel tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tagmoe.errors import UsageError
from tagmoe.pictures import load_image
from tagmoe.sentences import counted


def nest_images(image: Any, samples: int, is_batch: bool) -> list[list[Image.Image]]:
    """The references of each prompt: one inner list when all prompts share them, [[]] without references.

    With `is_batch` a flat list is one reference for each prompt, as in diffusers, and must be as long as the prompts.
    Raises UsageError when the numbers do not fit.
    """
    if image is None:
        return [[]]
    if not isinstance(image, list | tuple):
        return [[load_image(image)]]
    if not image:
        raise UsageError("image is an empty list; give at least one reference, or None to generate from text.")
    nested = any(isinstance(entry, list | tuple) for entry in image)
    if not nested and not is_batch:
        return [[load_image(entry) for entry in image]]
    if not nested:
        image = [[entry] for entry in image]
    if not all(isinstance(entry, list | tuple) for entry in image) or len(image) != samples:
        raise UsageError(
            f"image has {counted(image, 'entry', 'entries')} for {counted(samples, 'prompt')}; with a list of prompts "
            "give one picture for all of them, one for each, or one list of references for each."
        )
    counts = sorted({len(entry) for entry in image})
    if counts[0] == 0 or len(counts) > 1:
        raise UsageError(f"The prompts have {counts} references; give every prompt the same number, at least one.")
    return [[load_image(entry) for entry in pictures] for pictures in image]


def images_to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Equally large RGB pictures as float32 pixels (B, 3, H, W) in [-1, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
