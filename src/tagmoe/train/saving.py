"""Saves a stage while it trains on: its state is copied, and a thread writes the copy.

A thread and no process: a checkpoint process would outlive a rank that is killed, and write into the folder of the run
that has resumed by then. A thread ends with its rank.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from tagmoe.train.checkpoint import save_checkpoint
from tagmoe.train.ranks import Ranks
from tagmoe.train.shared_checkpoint import save_parts, staged

PATIENCE = 20.0
"""Seconds that a run which fails waits for a save that was begun. torchrun kills after 30."""


class Saver:
    """Writes the checkpoints of a stage into a folder, one at a time. All ranks call it together.

    As a context it waits for the last save: at a failure of the run for `PATIENCE` seconds, after Ctrl-C not at all.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self._folder = folder
        self._keep = keep
        self._ranks = ranks
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the last save has failed in this rank; it will in the others. `finish` raises the error."""
        return self._error is not None

    def start(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], like: Mapping[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Copy the state and begin to write it, once the save before is written. Raises the error of that one.

        tensors: "modules" and "ema", sharded as those in `like`, and "optimizer".
        """
        self.finish()
        copies = {name: staged(part, part if name == "optimizer" else like) for name, part in tensors.items()}
        state = copy.deepcopy(state)

        def write() -> None:
            if self._ranks.is_alone:
                save_checkpoint(self._folder, step, **copies, state=state, keep=self._keep)
            else:
                flat = {f"{part}.{name}": value for part, own in copies.items() for name, value in own.items()}
                save_parts(self._folder, step, flat, state=state, keep=self._keep, ranks=self._ranks)

        self._thread = threading.Thread(target=self._guarded, args=(write,), name=f"save-{step}", daemon=True)
        self._thread.start()

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            self._error = error

    def finish(self, patience: float | None = None) -> None:
        """Wait until the last save is on the disk, at most so many seconds. Raises its error."""
        if self._thread is not None:
            self._thread.join(patience)
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif not isinstance(error, KeyboardInterrupt) and self._thread is not None:
            self._thread.join(PATIENCE)
