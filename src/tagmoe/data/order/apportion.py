"""Deal the numbers 0, 1, 2, ... out among parties by weight, so that the party of any number is computed directly.

Two parties: number i goes to the first when floor((i a + d) / M) steps up there, a / M being the first's share. How
many it had among the first k is that floor itself: exact, and less than 1 from its share, in every window. Several
parties: a Huffman tree of such splits. A window of a node's numbers is a window of each child's, so a child of
conditional share q is off by less than q e + 1 where its parent is off by e; two levels of a Huffman tree at least
halve the share, so every party is off by less than 1 + q + (1 + q) / 2 + (1 + q) / 4 + ... <= 4 in every window,
however long, whatever the weights. (Drawn at random it would be off by the square root of the length.)
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

BITS = 64


@dataclass(frozen=True)
class _Split:
    share: int  # of the left branch, in units of 2**-BITS
    phase: int
    left: _Split | str
    right: _Split | str


class Apportion:
    """The parties of all numbers.

    weights: by party, of any sum; a party of weight 0 gets nothing, and one weight must be positive. seed, name: of the
    pseudo-random phases.
    """

    def __init__(self, weights: Mapping[str, float], *, seed: int, name: str = "") -> None:
        total = math.fsum(weights.values())  # exact: the order of the parties must not matter
        self.shares = {party: weight / total for party, weight in sorted(weights.items()) if weight > 0}
        ties = itertools.count()
        heap: list[tuple[float, int, _Split | str]] = [
            (share, next(ties), party) for party, share in self.shares.items()
        ]
        heapq.heapify(heap)
        while len(heap) > 1:
            (one, _, left), (two, order, right) = heapq.heappop(heap), heapq.heappop(heap)
            share = min(max(round(one / (one + two) * 2**BITS), 1), 2**BITS - 1)
            split = _Split(share, hash64(seed, name, order), left, right)
            heapq.heappush(heap, (one + two, next(ties), split))
        self._root = heap[0][2]

    def locate(self, number: int) -> tuple[str, int]:
        """The party of `number`, and how many of the numbers before it that party has."""
        node = self._root
        while isinstance(node, _Split):
            before = (number * node.share + node.phase) >> BITS
            after = (number * node.share + node.share + node.phase) >> BITS
            node, number = (node.left, before) if after > before else (node.right, number - before)
        return node, number


def hash64(*parts: int | str) -> int:
    """A hash below 2**64 of numbers and texts, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
