"""Stores of TagWorld with columns of annotators, made for tests of their agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tagmoe.annotation.answer import ANNOTATION, Annotation, column_of
from tagmoe.annotation.quality.agreement import ABSENT, AgreementTally, as_bits
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.record import Record, from_row
from tagmoe.data.store.store import Store
from tagmoe.intervals import Bootstrap
from tagmoe.tags import TAGS

Annotator = Callable[[Record], Annotation | None]


def world_records(count: int, seed: int = 5, tasks: str | None = None) -> list[Record]:
    return [row.records[0] for row in TagWorldSource(count, seed, tasks).rows()]


def stored(path: Path, records: Iterable[Record], rows: int = 100) -> Store:
    store, records = Store.create(path), list(records)
    with store.writing():
        for start in range(0, len(records), rows):
            store.append(records[start : start + rows])
    return store


def annotate(store: Store, **annotators: Annotator) -> Store:
    """Fill the column of each annotator with what it says of each record."""
    with store.writing():
        store.declare([pa.field(column_of(name), ANNOTATION) for name in annotators])
        for number in store.fragments():
            rows = [from_row(row) for batch in store.fragment(number) for row in batch.to_pylist()]
            values = {}
            for name, annotator in annotators.items():
                said = [annotator(record) for record in rows]
                values[column_of(name)] = pa.array([None if one is None else one.to_row() for one in said], ANNOTATION)
            store.fill(number, pa.table(values))
    return store


def truth(record: Record) -> Annotation:
    """The record's own tags."""
    return Annotation("ok", tags=tuple(sorted(record.tags or ())), model="truth", rules_version="1")


def careless(seed: int = 0, *, drop: float = 0.08, add: float = 0.15, silent: float = 0.05) -> Annotator:
    """Leaves tags out, adds some, and does not answer all; each record by its id, so that no order matters."""

    def annotator(record: Record) -> Annotation | None:
        random = np.random.default_rng([seed, int(record.id[:12], 16)])
        if random.random() < silent:
            return Annotation("refused", reason="It would not.") if random.random() < 0.5 else None
        tags = {tag for tag in record.tags or () if random.random() >= drop}
        if random.random() < add:
            tags.add(int(random.integers(len(TAGS))))
        return Annotation("ok", tags=tuple(sorted(tags)), model="careless-7b", rules_version="1")

    return annotator


def alpha_of(units: Iterable[Sequence[Iterable[int] | None]], distance: str) -> float | None:
    """Krippendorff's alpha. units: the tags by each annotator for each row, or None."""
    units = list(units)
    tally = AgreementTally(len(units[0]))
    for unit in units:
        tally.add("", [ABSENT if value is None else as_bits(value) for value in unit])
    return tally.alphas(Bootstrap())[distance].value
