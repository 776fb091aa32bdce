"""Pipelines of diffusers that specialists take: ControlNet, which follows a map, and inpainting, which fills a hole."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.evaluate.answers.diffusers_editor import INDEX
from tagmoe.evaluate.answers.weights import digest_of_weights
from tagmoe.factory.specialists.settings import Pipeline
from tagmoe.factory.specialists.specialist import Model
from tagmoe.files.json_files import read_object
from tagmoe.pictures import resize_image
from tagmoe.sentences import reason_of

MULTIPLE = 16
"""Of which the sides are that a pipeline draws."""


class Drawer:
    """A pipeline in a folder; nothing is downloaded. kind: a part of its class's name, as "ControlNet"."""

    def __init__(self, settings: Pipeline, kind: str) -> None:
        """Raises MissingError where there is no pipeline, UsageError for one of another kind."""
        folder = Path(settings.model)
        if not (folder / INDEX).is_file():
            raise MissingError(f"There is no pipeline in {settings.model!r}; give a folder with {INDEX}.")
        found = str(read_object(folder / INDEX).get("_class_name"))
        if kind not in found:
            raise UsageError(f"The pipeline in {settings.model!r} is a {found}; give one of the kind {kind}.")
        self._settings, self._folder = settings, folder
        self.model = Model(
            settings.name or folder.resolve().name, settings.licence, digest_of_weights(folder), settings.may_train
        )

    def open(self) -> None:
        """Load the pipeline. Raises CheckpointError for one that cannot be loaded."""
        assert self._pipeline

    @cached_property
    def _pipeline(self) -> Any:
        import torch
        from diffusers import DiffusionPipeline

        has_gpu = torch.cuda.is_available()
        try:
            found = DiffusionPipeline.from_pretrained(
                self._folder, dtype=torch.bfloat16 if has_gpu else torch.float32, local_files_only=True
            )
        except Exception as error:
            # A damaged folder makes each library raise its own.
            raise CheckpointError(
                f"The pipeline in {str(self._folder)!r} cannot be loaded ({reason_of(error)})."
            ) from error
        found.set_progress_bar_config(disable=True)
        return found.to("cuda") if has_gpu else found

    def __call__(self, words: str, seed: int, **pictures: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8 of the size of the pictures. seed: the noise is drawn on the CPU, so that a seed gives the
        same on every device. pictures: by the names of the pipeline's arguments."""
        import torch

        first = next(iter(pictures.values()))
        width, height = (max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in first.size)
        shown = {name: resize_image(one, height, width) for name, one in pictures.items()}
        given = {"num_inference_steps": self._settings.steps, "guidance_scale": self._settings.cfg}
        options = {name: value for name, value in given.items() if value is not None}
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.inference_mode():
            (drawn,) = self._pipeline(
                prompt=words, height=height, width=width, generator=generator, **shown, **options
            ).images
        return np.asarray(resize_image(drawn.convert("RGB"), first.height, first.width))
