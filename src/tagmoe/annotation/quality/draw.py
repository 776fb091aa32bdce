"""A pseudo-random choice of rows in one pass, the same in every run: those with the smallest digests of their ids."""

from __future__ import annotations

import hashlib
import heapq
from typing import Any


def digest_of(name: str) -> int:
    """A digest of an id, 56 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def keep_largest(heap: list[Any], item: Any, count: int | None) -> None:
    """Add an item to a heap that keeps the `count` largest, or all for None."""
    heapq.heappush(heap, item)
    if count is not None and len(heap) > count:
        heapq.heappop(heap)
