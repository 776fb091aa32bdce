"""Copies of a store with other records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store


def changed(store: Path, target: Path, change: Callable[[Record], Record]) -> Path:
    """A copy of a store with other records."""
    records = Store.open(store).records(range(len(Store.open(store))))
    made = Store.create(target)
    with made.writing():
        made.append([change(record) for record in records])
    return target
