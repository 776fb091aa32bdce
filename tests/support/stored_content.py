"""A digest of what a store holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tagmoe.data.store.store import Store


def content_hash(store: Store, columns: Sequence[str] | None = None) -> str:
    """A digest of all rows that does not depend on their order or on fragments: equal records, equal digest."""
    total = 0
    names = sorted(store.columns if columns is None else columns)
    for batch in store.scan(names):
        for row in batch.to_pylist():
            digest = hashlib.sha256()
            for name in names:
                digest.update(repr((name, row[name])).encode())
            total += int.from_bytes(digest.digest(), "big")
    return f"{total % 2**256:064x}"
