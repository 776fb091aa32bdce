"""Source of TagWorld samples, which are generated, with their exact tags."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.record import Picture, Record, Role, TagProvenance, record_id
from tagmoe.errors import UsageError
from tagmoe.sentences import counted
from tagmoe.world import SIZE, TASKS, Divide, Sample, sample
from tagmoe.world.sample import Split

DATASET = "tagworld"
EDITING = "editing"
"""As `tasks`: every task but text-to-image."""
_SPLIT: Split = "train"
# Part of the ids: a store that was filled before the divide holds other samples under the same numbers.
_DIVIDE: Divide = "content"
# tasks whose picture is a reference, not a source
_FOLLOWED = frozenset({"subject", "style_ref", "structure"})


class TagWorldSource:
    """Samples 0 to count - 1 of `tagmoe.world.sample(seed, number, task=tasks)`.

    tasks: names separated by commas, "editing" for all but generate, None for all. A sample depends on its number, the
    seed and the tasks. Raises UsageError for an unknown task, and for numbers out of range.
    """

    name = DATASET
    licence = Licence("Apache-2.0")

    def __init__(self, count: int, seed: int = 0, tasks: str | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(
                f"TagWorld cannot give {counted(count, 'sample')} of seed {seed}; give 1 or more, and a seed from 0."
            )
        self._count, self._seed = count, seed
        self._tasks = None if tasks is None else task_names(tasks)

    def identity(self) -> Mapping[str, Any]:
        """As the fingerprint: samples have no files."""
        return self.fingerprint()

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the samples: count, seed, tasks and divide."""
        return {"kind": DATASET, "count": self._count, "seed": self._seed, "tasks": self._tasks, "divide": _DIVIDE}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each sample."""
        for number in range(start, self._count):
            yield Row(number + 1, (self._record(number),), origin=f"{_SPLIT}-{self._seed}-{number}")

    def __len__(self) -> int:
        return self._count

    def _record(self, number: int) -> Record:
        drawn = sample(self._seed, number, split=_SPLIT, task=self._tasks, divide=_DIVIDE)
        key = f"{_SPLIT}-by-{_DIVIDE}-{self._seed}-{number}"
        return Record(
            id=record_id(DATASET, key, "" if self._tasks is None else ",".join(self._tasks)),
            dataset=DATASET,
            target=_picture(drawn.target),
            instruction=drawn.instruction,
            licence=self.licence.name,
            images=_images(drawn),
            native_task=drawn.task,
            origin=key,
            tags=drawn.tags.indices,
            tag_provenance=TagProvenance(annotator="oracle"),
        )


def task_names(tasks: str) -> tuple[str, ...]:
    """The tasks of the option `tasks`. Raises UsageError for an unknown one."""
    if tasks == EDITING:
        return tuple(name for name in TASKS if name != "generate")
    names = tuple(tasks.split(","))
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UsageError(f"Unknown TagWorld task {unknown[0]!r}; choose among {EDITING}, {', '.join(TASKS)}.")
    return names


def _images(drawn: Sample) -> tuple[Picture, ...]:
    if not drawn.sources:
        return ()
    role: Role = "reference" if drawn.task in _FOLLOWED else "source"
    mask = drawn.mask.astype(np.uint8) * 255
    return (*(_picture(source, role) for source in drawn.sources), _picture(mask, "mask"))


def _picture(array: np.ndarray, role: Role = "source") -> Picture:
    """A lossless PNG of (64, 64[, 3]) uint8."""
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return Picture(data.getvalue(), SIZE, SIZE, role)
