"""Steps that look at each candidate by themselves, without a model: `check`, and TagWorld's oracle as `judge`.

The unit of work is a fragment of the candidates, on any engine. A row that was dropped before is not looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tagmoe.data.sources.native_tasks import edit_of
from tagmoe.data.sources.tagworld import DATASET
from tagmoe.data.store.engine import Engine, run
from tagmoe.data.store.record import Picture, Record, from_row
from tagmoe.data.store.store import Filling, Store
from tagmoe.errors import DataError, ImageError
from tagmoe.factory.columns import Column, fate_of
from tagmoe.factory.folder import VERDICT, verdict
from tagmoe.factory.looks import WORDS, Limits, faults, numbers
from tagmoe.pictures import load_image
from tagmoe.world import judge, sample

READ_ROWS = 32
SKIPPED = "skipped"
"""Status of a row that was dropped before this step."""
_ORIGIN = re.compile(r"train-by-content-(\d+)-(\d+)$")

LookAt = Callable[[Record], dict[str, Any]]
"""What a step says of a candidate, as a value of VERDICT."""


@dataclass(frozen=True)
class CheckLooks:
    """Blank, copied and shifted pictures. dataset: by which tasks are understood."""

    limits: Limits

    def __call__(self, record: Record) -> dict[str, Any]:
        edit = edit_of(record.dataset, record.native_task)
        try:
            output = _array(record.target)
            source = next((picture for picture in record.inputs), None)
            found = numbers(None if source is None else _array(source), output, edit)
        except ImageError as error:
            return verdict(False, f"unreadable: {error}")
        wrong = faults(found, self.limits.of(edit))
        values = {name: round(value, 4) for name, value in found.items()}
        return verdict(not wrong, WORDS[wrong[0]] if wrong else "", values=values)


@dataclass(frozen=True)
class OracleLooks:
    """TagWorld's oracle: strict success against the truth of the root, which is drawn again. tasks: as it was drawn."""

    tasks: tuple[str, ...] | None
    least: float

    def __call__(self, record: Record) -> dict[str, Any]:
        found = _ORIGIN.search(record.origin)
        if found is None:
            return verdict(False, "the root is no sample of TagWorld", status="refused", model="oracle")
        case = sample(int(found[1]), int(found[2]), task=self.tasks)
        if case.instruction != record.instruction:
            reason = "this version of TagWorld draws another case, or the words are others"
            return verdict(False, reason, status="refused", model="oracle")
        said = judge(case, np.asarray(load_image(record.target.data)))
        score = float(said.success)
        reason = "" if said.success else f"the oracle: {said.reasons[0] if said.reasons else 'the rest is damaged'}"
        return verdict(score >= self.least, _kind_of(reason), score, model="oracle", raw="; ".join(said.reasons))


@dataclass
class LookWork:
    """Looks at the rows of a fragment of the candidates: the `work` of an engine. Its value is (filling, rows)."""

    uri: str
    version: int
    column: Column
    before: Sequence[Column]
    look: LookAt
    _store: Store | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_store": None}

    def __call__(self, fragment: int) -> tuple[Filling, int]:
        if self._store is None:
            self._store = Store.open(self.uri, version=self.version)
        store, said = self._store, []
        names = [*store.record_columns, *(column.name for column in self.before)]
        looked = 0
        for batch in store.fragment(fragment, names, rows=READ_ROWS):
            for row in batch.to_pylist():
                stands = fate_of(row, self.before) is None
                looked += stands
                said.append(self.look(from_row(row)) if stands else verdict(False, "", status=SKIPPED))
        table = pa.table({self.column.name: pa.array(said, VERDICT)})
        return store.prepare(fragment, table), looked


def look(
    store: Store,
    column: Column,
    before: Sequence[Column],
    look_at: LookAt,
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> Generator[tuple[int, float], None, None]:
    """Fill the column of a step; yields (rows, seconds) of each fragment. Raises DataError at the first that fails."""
    with store.writing():
        store.declare([pa.field(column.name, VERDICT)])
        waiting = store.unfilled(column.name)
        work = LookWork(store.uri, store.version, column, before, look_at)
        started = time.perf_counter()
        with closing(run(waiting, work, engine=engine, workers=workers, address=address, gpus=False)) as results:
            for done in results:
                if done.error is not None:
                    raise DataError(f"The step {column.title} stopped; the first failure: {done.error}")
                filling, rows = done.value
                store.commit(filling)
                now = time.perf_counter()
                yield rows, now - started
                started = now


def is_tagworld(kind: str | None) -> bool:
    """Whether roots of this kind have a truth that the oracle knows."""
    return kind == DATASET


def _kind_of(reason: str) -> str:
    """The reason without the place in the picture, so that rows can be counted by it."""
    return re.sub(r"(the oracle: )[\w -]+: ", r"\1", reason)


def _array(picture: Picture) -> np.ndarray:
    return np.asarray(load_image(picture.data))
