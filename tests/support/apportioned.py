"""How many numbers each party of an `Apportion` has, counted by its splits without dealing them out."""

from __future__ import annotations

from tagmoe.data.order.apportion import BITS, Apportion, _Split

LARGEST_ERROR = 4
"""Upper bound of the numbers that a party has more or less than its share, in any window."""


def counts(deal: Apportion, number: int) -> dict[str, int]:
    """By party, how many of the numbers before `number` it has."""
    found: dict[str, int] = {}
    nodes = [(deal._root, number)]
    while nodes:
        node, count = nodes.pop()
        if isinstance(node, _Split):
            left = (count * node.share + node.phase) >> BITS
            nodes += [(node.left, left), (node.right, count - left)]
        else:
            found[node] = count
    return found
