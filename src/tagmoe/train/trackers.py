"""Where the metrics go beside metrics.jsonl: TensorBoard, and any tracker that accelerate knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tagmoe.errors import ConfigError
from tagmoe.extras import missing_package, require
from tagmoe.sentences import cut

PROJECT = "tagmoe"
TENSORBOARD = "tensorboard"
PACKAGES = {"comet_ml": "comet-ml"}
"""Names of packages that differ from those of their trackers."""


class Tracker(Protocol):
    """Takes numbers of a step, and pictures."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""
        ...


def check_trackers(names: tuple[str, ...], *, tensorboard: bool = False) -> None:
    """Raise ConfigError for a name that accelerate does not know, MissingError where its package is not installed."""
    if tensorboard or TENSORBOARD in names:
        setting = "tensorboard: true" if tensorboard else "watch.report_to: [tensorboard]"
        require("train", purpose=f"The setting '{setting}'")
    others = [name for name in names if name != TENSORBOARD]
    if not others:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    installed = {str(name) for name in get_available_trackers()}
    for name in others:
        if name not in known:
            raise ConfigError(
                f"The setting 'watch.report_to' names {cut(name)!r}, which accelerate does not know; give "
                f"{', '.join(known)}."
            )
        if name not in installed:
            raise missing_package(PACKAGES.get(name, name), f"The setting 'watch.report_to: [{name}]'")


@contextmanager
def trackers(
    names: tuple[str, ...], folder: Path, stage: str, step: int, *, tensorboard: bool, settings: Mapping[str, Any]
) -> Iterator[list[Tracker]]:
    """The trackers of a stage, which end with the block. step: the steps done before; TensorBoard forgets later ones.

    folder: of the run. settings: of the run, for the trackers that keep them. Raises as `check_trackers` does.
    """
    check_trackers(names, tensorboard=tensorboard)
    with ExitStack() as stack:
        made: list[Tracker] = []
        if tensorboard or TENSORBOARD in names:
            made.append(stack.enter_context(_tensorboard(folder / TENSORBOARD / stage, step)))
        for name in names:
            if name != TENSORBOARD:
                made.append(stack.enter_context(_of_accelerate(name, folder, stage, settings)))
        yield made


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, purge_step=step + 1) as writer:
        yield _TensorBoard(writer)


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


@contextmanager
def _of_accelerate(name: str, folder: Path, stage: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers of accelerate ask it whether this is the main process
    made = LOGGER_TYPE_TO_CLASS[name]
    where = {"logging_dir": str(folder / name)} if made.requires_logging_directory else {}
    # Stages count their steps from 1, so each is a run of its own.
    tracker = made(f"{PROJECT}-{folder.name}-{stage}", **where)
    tracker.start()
    tracker.store_init_configuration(_flat(settings))
    try:
        yield tracker
    finally:
        tracker.finish()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, with values that every tracker takes."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
