"""Load a pipeline for a command: silence the libraries, choose the model and the memory plan."""

from __future__ import annotations

import gc
import logging as python_logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.cli.output import log
from tagmoe.errors import CheckpointError, UsageError
from tagmoe.files.hub import REPOSITORY
from tagmoe.pipeline.memory.plans import PLANS, MemoryPlan, choose_plan
from tagmoe.pipeline.memory.room import memory_room
from tagmoe.pipeline.memory.sizes import GB, ModelSizes, read_sizes
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.packaged import packaged_folder

if TYPE_CHECKING:
    from tagmoe.model.lora import LoraReport
    from tagmoe.pipeline.pipeline import TagMoEPipeline

PACKAGED = "packaged TagWorld model"


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while libraries are imported and a model is loaded.

    Nearly all that they make stays, so the collector searches it again and again in vain: a fifth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@collector_paused()
def quiet_libraries() -> None:
    """Keep the libraries' warnings and bars off stderr, because users can do nothing about them. --debug shows them."""
    if os.environ.get("TAGMOE_DEBUG"):
        return
    warnings.simplefilter("ignore")
    # Silenced first: other libraries import it where it is installed, and then it warns of an optional package.
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    # What tagmoe's own modules warn of, a command says itself.
    python_logging.getLogger("tagmoe").setLevel(python_logging.ERROR)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def check_model(model: Path | None) -> Path:
    """The folder to load, of a training run the model in it. A hub name that is no folder here is downloaded.

    Raises MissingError or UsageError; for a folder at once, before anything heavy is imported.
    """
    if model is None:
        return packaged_folder()
    if model.is_file():
        raise UsageError(f"The model {str(model)!r} is a file; give the folder of a pipeline (with model_index.json).")
    if not model.is_dir() and REPOSITORY.fullmatch(str(model)):
        return _from_hub(str(model))
    return model_of_run(model)


def model_of_run(folder: Path) -> Path:
    """`folder`, or the model that the folder of a training run holds; a line says so. Raises as `model_folder` does."""
    found = model_folder(folder)
    if found != folder:
        _log_once(f"{str(folder)!r} is the folder of a training run; the model in it, {str(found)!r}, is used.")
    return found


@cache
def _from_hub(name: str) -> Path:
    """The hub's repository as a folder. It is asked for several times in a command, and looked up once."""
    log(f"There is no folder {name!r} here, so the repository of that name on the hub is used.")
    from tagmoe.pipeline.folder import pipeline_folder

    return pipeline_folder(name)


@cache
def _log_once(sentence: str) -> None:
    log(sentence)


def model_name(model: Path | None) -> str:
    """The model's name in reports and picture metadata. It is no path, to reveal nothing about the user's machine."""
    return PACKAGED if model is None else model.resolve().name


@collector_paused()
def plan_memory(model: Path | None, memory: str = "auto") -> MemoryPlan:
    """The memory plan for a model. Logs a line unless the plan simply keeps everything on the device.

    Raises TagMoEError when no plan fits, and the errors of `read_sizes` for a bad folder.
    """
    room = memory_room(memory)
    folder = check_model(model)
    try:
        sizes = read_sizes(folder, value_bytes=room.value_bytes, quantised_value_bytes=room.quantised_value_bytes)
    except CheckpointError as error:
        from tagmoe.pipeline.release import explain_release

        raise explain_release(folder, error) from None
    plan = choose_plan(sizes, room.budget, room.host, room.plans)
    if plan is not PLANS[0]:
        estimate = plan.estimate(sizes)
        picture = f"within {plan.tolerance:g} of 255" if plan.tolerance else "the same"
        log(
            f"memory plan {plan.name}: about {estimate.device / GB:.1f} of {room.budget / GB:.1f} GB on the device and "
            f"{estimate.host / GB:.1f} GB of the host; pictures: {picture} beside plan {PLANS[0].name}; computed in "
            f"{'bf16' if _values(plan, sizes) == 2 else 'fp32'}."
        )
    return plan


def _values(plan: MemoryPlan, sizes: ModelSizes) -> int:
    """Bytes of a value that is not quantised."""
    return sizes.quantised_value_bytes if plan.is_quantised else sizes.value_bytes


@collector_paused()
def load_model(model: Path | None, *, threads: int | None = None, plan: MemoryPlan | None = None) -> TagMoEPipeline:
    """Load a pipeline by a memory plan: in bf16 on a GPU if there is one, else in fp32 on the CPU.

    plan: by default the one for the free memory. threads: by default 1 for a TagWorld model, else torch's choice.
    Raises MissingError without a folder, CheckpointError for an incomplete or damaged one.
    """
    folder = check_model(model)
    import torch

    quiet_libraries()
    from tagmoe.pipeline.memory.placing import load_pipeline

    plan = plan or plan_memory(model)
    if torch.cuda.is_available():
        return load_pipeline(folder, plan, "cuda")
    pipeline = load_pipeline(folder, plan, "cpu")
    if threads is None and pipeline.config.known_words is not None:
        # Operations of this model take microseconds, so waiting for a second thread costs more than it saves. One edit
        # took 0.2 s with one thread and 4.4 s with two, on 2 cores that another process was using.
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return pipeline


def load_loras(pipeline: TagMoEPipeline, sources: Sequence[str], scales: Sequence[float] | None) -> list[LoraReport]:
    """Load all LoRAs and set their strengths. Logs the report of each as one line."""
    for source, count in Counter(str(Path(source).resolve()) for source in sources).items():
        if count > 1:
            log(f"The LoRA {source!r} is given {count} times; their strengths add up.")
    reports = [pipeline.load_lora_weights(source) for source in sources]
    for report, source in zip(reports, sources, strict=True):
        log(f"{source}: {report}")
    if reports:
        pipeline.set_adapters([report.adapter for report in reports], list(scales or [1.0] * len(reports)))
    return reports
