"""Find signs of wrong tags without a second annotator.

- Tags by native task: a task whose rows have unexpected tags.
- Rules of the vocabulary that the tags break.
- Inverse consistency: an edit and its inverse change the same thing, so scope and type must be equal when each is
  tagged on its own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from tagmoe.annotation.quality.agreement import as_bits, tags_of
from tagmoe.intervals import GROUPS, Bootstrap, Interval, RootGroups
from tagmoe.tags import TAG_NAMES, TAGS, TaskDescriptor

MAX_TASKS = 200
"""Most task names that are counted separately, so that a source with free texts does not fill the memory."""
OTHER_TASKS = "(further tasks)"
FIRST_ROWS = 12
"""Most rows that are listed as examples."""
SHARED_TAGS = tuple(tag.index for tag in TAGS if tag.tier != "preservation")
"""Scope and type tags. Preservation tags may differ between an edit and its inverse."""
_SHARED = as_bits(SHARED_TAGS)


def descriptor_of(bits: int) -> TaskDescriptor:
    """The descriptor of a set of tags."""
    return TaskDescriptor.from_tags(TAG_NAMES[tag] for tag in tags_of(bits))


@lru_cache(maxsize=65536)
def broken_rules(bits: int) -> tuple[str, ...]:
    """Names of the rules that a set of tags breaks."""
    return tuple(rule.name for rule in descriptor_of(bits).broken_rules())


@dataclass
class TaskTags:
    """Counts of rows and of each of the 18 tags, by (data set, native task)."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def add(self, dataset: str, native_task: str, bits: int) -> None:
        """One row."""
        task = (dataset, native_task)
        if task not in self.counts and len(self.counts) >= MAX_TASKS:
            task = ("", OTHER_TASKS)
        counts_K = self.counts.setdefault(task, np.zeros(len(TAGS), np.int64))
        for tag in tags_of(bits):
            counts_K[tag] += 1
        self.rows[task] += 1

    def shares(self) -> Iterator[tuple[str, str, int, np.ndarray]]:
        """(Data set, task, rows, share of the rows with each of the 18 tags), sorted by name."""
        for (dataset, task), count in sorted(self.rows.items()):
            yield dataset, task, count, self.counts[dataset, task] / count


@dataclass
class FaultCounts:
    """Counts of rows. rows: all that were examined. faulty: with any fault. by_name: by name of the fault."""

    rows: int = 0
    faulty: int = 0
    by_name: Counter[str] = field(default_factory=Counter)

    def add(self, names: Collection[str]) -> None:
        """One row, with the different names of its faults."""
        self.rows += 1
        self.faulty += bool(names)
        self.by_name.update(names)


class InversePair(NamedTuple):
    """The rows of an edit and of its inverse, and the tags that only one of them has."""

    parent: int
    child: int
    differing: tuple[str, ...]


@dataclass(frozen=True)
class InverseTag:
    """One tag over all pairs. differing: share of pairs in which only one record has it.

    error: the error rate e that explains this share, if errors on both records are independent and equally frequent:
    2 e (1 - e) = differing. Equal errors on both records are not seen, so it is a lower bound.
    """

    tag: str
    differing: Interval[float | None]
    error: Interval[float | None]


@dataclass(frozen=True)
class InverseConsistency:
    """One annotator's tags of edits and of their inverses.

    pairs: pairs in which both records have tags. consistent: share of pairs with the same scope and type. alone:
    inverses whose parent has no tags. examples: the first pairs that differ.
    """

    pairs: int
    alone: int
    consistent: Interval[float | None]
    tags: tuple[InverseTag, ...]
    examples: tuple[InversePair, ...]


class InverseTally:
    """Joins inverses with their parents by digests of ids; it needs about 50 bytes for each inverse.

    Call `child` for every inverse first, then `parent` for every other record.
    """

    def __init__(self) -> None:
        self._keys, self._bits, self._rows = array("Q"), array("l"), array("q")
        self._groups = RootGroups()
        # pairs, equal pairs, and by tag the pairs that differ
        self._sums_G = np.zeros((GROUPS, 2 + len(TAGS)))
        self._examples: list[InversePair] = []
        self._found = 0

    def __len__(self) -> int:
        return len(self._keys)

    def child(self, parent: str, bits: int, row: int) -> None:
        """Add an inverse. parent: id of its parent. bits: its tags. row: its number."""
        self._keys.append(_digest(parent))
        self._bits.append(bits)
        self._rows.append(row)

    def parent(self, name: str, root: str, bits: int, row: int) -> None:
        """Add a record that may be the parent of an inverse. name: its id."""
        keys, children, rows = self._sorted
        place = int(np.searchsorted(keys, np.uint64(_digest(name))))
        if place == len(keys) or int(keys[place]) != _digest(name):
            return
        differing = tags_of((bits ^ int(children[place])) & _SHARED)
        group = self._groups.number(root)
        self._found += 1
        self._sums_G[group, 0] += 1
        self._sums_G[group, 1] += not differing
        for tag in differing:
            self._sums_G[group, 2 + tag] += 1
        if differing and len(self._examples) < FIRST_ROWS:
            self._examples.append(InversePair(row, int(rows[place]), tuple(TAG_NAMES[tag] for tag in differing)))

    def result(self, bootstrap: Bootstrap) -> InverseConsistency:
        """All figures; they are undefined without any pair."""
        groups = max(1, len(self._groups))
        sums_G = self._sums_G[:groups]
        draws = bootstrap.weights(groups) @ sums_G

        def share(column: int) -> tuple[float, np.ndarray]:
            with np.errstate(invalid="ignore"):
                return float(np.divide(sums_G[:, column].sum(), sums_G[:, 0].sum())), draws[:, column] / draws[:, 0]

        def tag(number: int) -> InverseTag:
            value, drawn = share(2 + number)
            return InverseTag(
                TAG_NAMES[number],
                bootstrap.interval(value, drawn, groups),
                bootstrap.interval(float(_error_rate(np.array(value))), _error_rate(drawn), groups),
            )

        return InverseConsistency(
            pairs=self._found,
            alone=len(self) - self._found,
            consistent=bootstrap.interval(*share(1), groups),
            tags=tuple(tag(number) for number in SHARED_TAGS),
            examples=tuple(self._examples),
        )

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, sets and rows of the inverses, by key."""
        keys = np.frombuffer(self._keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], np.array(self._bits)[order], np.array(self._rows)[order]


def _error_rate(differing: np.ndarray) -> np.ndarray:
    """The solution e of 2 e (1 - e) = differing; 0.5 if differing is 0.5 (chance) or more."""
    return 0.5 - np.sqrt(np.maximum(0.0, 1 - 2 * differing)) / 2


def _digest(name: str) -> int:
    """A digest of 64 bits. For 11 million ids, the probability of any collision is 3 in a million."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
