"""Asking for a store: every record gets an answer, such as tags in the column `annotation_NAME` (paper 3.2).

From an answer to the column, in one direction:
1. `Asking` asks for many rows at once, in this process or in each worker of an engine.
2. Each answer goes into a ledger on the disk at once, so that a killed run asks nothing twice.
3. When a fragment's last answer is there, its columns are written to a file (`Store.prepare`).
4. `annotate_store` commits that file and removes the ledger.
A row that cannot be answered gets a status other than ok; the other rows are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa

from tagmoe.annotation.ask.asker import Asker
from tagmoe.annotation.ask.asking import (
    GIVE_UP_AFTER,
    AnnotatedFragment,
    Asking,
    Outcome,
    ledger_folder,
    stale_rows,
)
from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.annotation.ask.plan import AskPlan, Plan
from tagmoe.data.store.engine import Done, Engine, run
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError

__all__ = ["GIVE_UP_AFTER", "AnnotateWork", "Outcome", "Plan", "annotate_store"]


def annotate_store(
    store: Store,
    make: Callable[[], Asker[Any]],
    plan: AskPlan[Any],
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Ask for every row that has no answer under the asker's settings. After a kill, the same call resumes.

    make: makes who is asked, in each process; with several processes it must pickle. limit: rows to ask; several
    processes finish the fragment in which it is reached. progress: called with rows done and all.

    Raises UsageError for settings that cannot work. Raises DataError when the server answers no question any more, not
    even a harmless one, or when nothing can be written; the answers so far are kept.
    """
    result = Outcome()
    annotator = make()
    with store.writing(), closing(Asking(store, annotator, plan)) as asking:
        store.declare([pa.field(plan.column, plan.kind)])
        waiting = stale_rows(store, annotator, plan)
        count = _counter(progress, sum(waiting.values()), limit)
        if engine == "local" and workers == 1:
            fragments = asking.fragments(list(waiting), limit, count)
        else:
            work = AnnotateWork(store.uri, store.version, make, plan)
            done = run(_within(waiting, limit), work, engine=engine, workers=workers, address=address)
            fragments = _from_workers(done, count)
        with closing(fragments):
            for fragment in fragments:
                store.commit(fragment.filling)
                Ledger(ledger_folder(store, plan), fragment.number, plan.read).remove()
                result.add(fragment.outcome)
        result.left = sum(stale_rows(store, annotator, plan).values())
    return result


def _from_workers(
    results: Generator[Done, None, None], count: Callable[[int], None]
) -> Generator[AnnotatedFragment, None, None]:
    """The fragments that an engine's workers annotated. Raises DataError at the first failure."""
    with closing(results):
        for done in results:
            if done.error is not None:
                raise DataError(f"Annotating stopped; run the same command again. The first failure: {done.error}")
            count(sum(done.value.outcome.asked.values()))
            yield done.value


@dataclass
class AnnotateWork:
    """Asks for a fragment of the store at `uri` as it was at `version`: the `work` of an engine."""

    uri: str
    version: int
    make: Callable[[], Asker[Any]]
    plan: AskPlan[Any]
    _asking: Asking | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_asking": None}

    def __call__(self, number: int) -> AnnotatedFragment:
        if self._asking is None:
            self._asking = Asking(Store.open(self.uri, version=self.version), self.make(), self.plan)
        (fragment,) = self._asking.fragments([number])
        return fragment


def _within(waiting: dict[int, int], limit: int | None) -> list[int]:
    """The first fragments that hold `limit` waiting rows together, or all."""
    rows_before = accumulate(waiting.values(), initial=0)
    return [number for number, rows in zip(waiting, rows_before, strict=False) if limit is None or rows < limit]


def _counter(progress: Callable[[int, int], None] | None, waiting: int, limit: int | None) -> Callable[[int], None]:
    """A function that adds to the number of rows done and calls `progress`."""
    done, total = 0, min(waiting, limit or waiting)

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    count(0)
    return count
