"""Loading a pipeline for a command: quiet libraries, the packaged model by default, the right processor."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.errors import UsageError
from tagmoe.packaged import packaged_folder

if TYPE_CHECKING:
    from tagmoe.pipeline import TagMoEPipeline

PACKAGED = "packaged TagWorld model"


def hush() -> None:
    """Keep the libraries' warnings and bars off stderr, unless --debug: a user can do nothing about them."""
    if os.environ.get("TAGMOE_DEBUG"):
        return
    warnings.simplefilter("ignore")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def check_model(model: Path | None) -> Path:
    """The folder to load. Raises MissingError or UsageError at once, before anything heavy is imported."""
    if model is None:
        return packaged_folder()
    if model.is_file():
        raise UsageError(f"The model {str(model)!r} is a file; give the folder of a pipeline (with model_index.json).")
    return model


def model_name(model: Path | None) -> str:
    """The model's name in reports and picture metadata: no path, which would tell of the user's machine."""
    return PACKAGED if model is None else model.resolve().name


def load_model(model: Path | None, *, threads: int | None = None) -> TagMoEPipeline:
    """A pipeline ready to run: in bf16 on a GPU where there is one, else in fp32 on the CPU.

    Without `threads` a TagWorld model gets one, any other what torch chooses.
    Raises MissingError without a folder, CheckpointError for an incomplete or damaged one.
    """
    folder = check_model(model)
    import torch

    hush()
    from tagmoe.pipeline import TagMoEPipeline

    if torch.cuda.is_available():
        return TagMoEPipeline.from_pretrained(folder, dtype=torch.bfloat16).to("cuda")
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32)
    if threads is None and pipeline.config.known_words is not None:
        # Its operations take microseconds: waiting for a second thread costs more than that thread saves. One edit
        # took 0.2 s with one thread and 4.4 s with two on 2 cores that another process was using.
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return pipeline
