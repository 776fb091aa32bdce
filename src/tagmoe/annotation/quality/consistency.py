"""Signs of wrong tags that need no second annotator.

Tags against the task that the source names; broken rules of the vocabulary; and the inverse: an edit and its inverse
change the same thing, so their scope and type must be the same when each is tagged without a look at the other.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tagmoe.annotation.quality.agreement import as_bits, tags_of
from tagmoe.intervals import GROUPS, Bootstrap, Interval, RootGroups
from tagmoe.tags import TAG_NAMES, TAGS, TaskDescriptor

MAX_TASKS = 200
"""Names of tasks that are counted apart: a source of free text must not fill the memory."""
OTHER_TASKS = "(further tasks)"
FIRST_ROWS = 12
"""Rows that are named as examples."""
SHARED_TAGS = tuple(tag.index for tag in TAGS if tag.tier != "preservation")
"""What an edit and its inverse have in common: what is preserved depends on which of the two pictures is kept."""
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
    """How often each tag was given, by data set and native task. counts: of the 18 tags."""

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
        """Data set, task, rows, and the share of the rows with each tag, in the order of the names."""
        for (dataset, task), count in sorted(self.rows.items()):
            yield dataset, task, count, self.counts[dataset, task] / count


@dataclass
class RuleCounts:
    """rows: that have tags; broken: rows with a broken rule; by_rule: rows that break each."""

    rows: int = 0
    broken: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)

    def add(self, bits: int) -> tuple[str, ...]:
        """One row; returns the rules that it breaks."""
        names = broken_rules(bits)
        self.rows += 1
        self.broken += bool(names)
        self.by_rule.update(names)
        return names


@dataclass
class ConflictCounts:
    """What pixels say against tags. rows: that were looked at; conflicting: with any conflict; by_conflict: rows."""

    rows: int = 0
    conflicting: int = 0
    by_conflict: Counter[str] = field(default_factory=Counter)

    def add(self, conflicts: Iterable[str]) -> None:
        """One row."""
        found = set(conflicts)
        self.rows += 1
        self.conflicting += bool(found)
        self.by_conflict.update(found)


class InversePair(NamedTuple):
    """An edit and its inverse whose tags differ: their rows, and the tags that only one of them has."""

    parent: int
    child: int
    differing: tuple[str, ...]


@dataclass(frozen=True)
class InverseTag:
    """One tag over all pairs. differing: share of pairs in which only one has it.

    error: the rate at which an annotator must misjudge this tag to differ so often, if it errs on both records alike
    and independently: 2 e (1 - e) = differing. What it gets wrong in both is not seen, so this is a lower bound.
    """

    tag: str
    differing: Interval[float | None]
    error: Interval[float | None]


@dataclass(frozen=True)
class InverseConsistency:
    """An annotator's tags of edits and of their inverses. pairs: of which both have tags; consistent: share of them
    with the same scope and type; alone: inverses without such a parent; examples: the first pairs that differ."""

    pairs: int
    alone: int
    consistent: Interval[float | None]
    tags: tuple[InverseTag, ...]
    examples: tuple[InversePair, ...]


class InverseTally:
    """Joins inverses with their parents by digests: some 50 bytes for each inverse of a store.

    First `child` for every inverse, then `parent` for every other record.
    """

    def __init__(self) -> None:
        self._keys, self._bits, self._rows = array("Q"), array("l"), array("q")
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._groups = RootGroups()
        # pairs, equal pairs, and by tag the pairs that differ
        self._sums_G = np.zeros((GROUPS, 2 + len(TAGS)))
        self._examples: list[InversePair] = []
        self._found = 0

    def __len__(self) -> int:
        return len(self._keys)

    def child(self, parent: str, bits: int, row: int) -> None:
        """An inverse, by the id of its parent."""
        self._keys.append(_digest(parent))
        self._bits.append(bits)
        self._rows.append(row)

    def parent(self, name: str, root: str, bits: int, row: int) -> None:
        """A record that may be a parent."""
        keys, children, rows = self._ready()
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

    def result(self, bootstrap: Bootstrap | None = None) -> InverseConsistency:
        """All figures; without any pair they are undefined."""
        bootstrap = bootstrap or Bootstrap()
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

    def _ready(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._sorted is None:
            keys = np.frombuffer(self._keys, np.uint64)
            order = np.argsort(keys, kind="stable")
            self._sorted = keys[order], np.array(self._bits)[order], np.array(self._rows)[order]
        return self._sorted


def _error_rate(differing: np.ndarray) -> np.ndarray:
    """e of 2 e (1 - e) = differing; half where the answers are as different as coins, or more."""
    return 0.5 - np.sqrt(np.maximum(0.0, 1 - 2 * differing)) / 2


def _digest(name: str) -> int:
    """64 bits: among 11 million different ids, two have the same with a probability of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
