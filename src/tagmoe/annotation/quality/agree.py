"""Two annotators of a store side by side: one pass over their columns, a second for inverses, a look at some pictures.

The memory does not grow with the store, but for 50 bytes an inverse: sums are kept, and the rows that are shown.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tagmoe.annotation.answer import CANONICAL, Annotation, read_annotations
from tagmoe.annotation.quality.agreement import ABSENT, Agreement, AgreementTally, Gold, as_bits, masi_distance, tags_of
from tagmoe.annotation.quality.consistency import (
    ConflictCounts,
    InverseConsistency,
    InverseTally,
    RuleCounts,
    TaskTags,
    descriptor_of,
)
from tagmoe.annotation.quality.label_issues import LabelIssues, features_of, find_label_issues
from tagmoe.annotation.rules.evidence import conflicts, measure
from tagmoe.data.store.record import SCHEMA, Record, from_row
from tagmoe.data.store.store import Store
from tagmoe.errors import ImageError, UsageError
from tagmoe.intervals import Bootstrap, Interval
from tagmoe.tags import TAG_NAMES

PICTURES = 2000
"""Rows whose pictures are looked at, unless told otherwise."""
SHOWN = 24
"""Rows with pictures in a section of the page."""
MAX_PATTERNS = 4096
"""Kinds of disagreement that are counted apart."""
ROWS_OF_A_PATTERN = 3
NO_ANSWER = "no answer"
_READ_ROWS = 32
_META = ("id", "root", "dataset", "native_task", "operation", "parent", "tag_provenance")


class Disagreement(NamedTuple):
    """Rows in which the two differ alike: tags that only a, and only b, gave; how many rows; some of them."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    rows: int
    examples: tuple[int, ...]


class Case(NamedTuple):
    """A row to be looked at, and why in words."""

    row: int
    why: tuple[str, ...]


@dataclass
class Side:
    """One annotator alone. statuses: rows by status, NO_ANSWER among them; issues: of the rows whose
    pictures were looked at, with the numbers of the store; broken, conflicting: the first rows that break a rule, and
    whose pixels speak against the tags."""

    name: str
    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    rules: RuleCounts = field(default_factory=RuleCounts)
    tasks: TaskTags = field(default_factory=TaskTags)
    inverse: InverseConsistency | None = None
    issues: LabelIssues | None = None
    evidence: ConflictCounts = field(default_factory=ConflictCounts)
    broken: list[Case] = field(default_factory=list)
    conflicting: list[Case] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Rows with tags."""
        return self.statuses["ok"]


@dataclass(frozen=True)
class AgreeReport:
    """All that a report says. disagreements: the most frequent first; worst: the rows that differ most; looked_at:
    numbers of the rows whose pictures were read; by_definition: rows whose canonical tags are the other's;
    alphas_of_all: of a, b and the annotators `also`, by distance."""

    uri: str
    rows: int
    a: Side
    b: Side
    agreement: Agreement
    disagreements: tuple[Disagreement, ...]
    worst: tuple[Case, ...]
    looked_at: tuple[int, ...]
    by_definition: int = 0
    also: tuple[str, ...] = ()
    alphas_of_all: dict[str, Interval[float | None]] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both annotators."""
        return self.a, self.b


def agree(
    store: Store,
    a: str,
    b: str,
    *,
    also: Sequence[str] = (),
    gold: Gold | None = None,
    pictures: int = PICTURES,
    shown: int = SHOWN,
    bootstrap: Bootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AgreeReport:
    """Compare two annotators of a store.

    also: further annotators, for alpha of all. pictures: rows whose pictures are looked at. shown: rows of a section.
    Raises UsageError for an unknown annotator, one and the same twice, an empty store, and no rows in common;
    MissingError without the extra `vlm`.
    """
    if a == b:
        raise UsageError(f"Both annotators are {a!r}; compare two different ones.")
    if len({a, b, *also}) < 2 + len(also):
        raise UsageError(f"An annotator is given twice ({', '.join([a, b, *also])}); give each once.")
    if not len(store):
        raise UsageError(f"The store {store.uri!r} has no rows; fill it with 'tagmoe data import'.")
    bootstrap = bootstrap or Bootstrap()
    reading = _Reading(store, a, b, tuple(also), pictures)
    reading.run(progress)
    sides = reading.sides
    for side, tally in zip(sides, reading.inverses, strict=True):
        if len(tally):
            _join_parents(store, side.name, tally)
        side.inverse = tally.result(bootstrap)
    try:
        agreement = reading.tally.result(gold=gold, bootstrap=bootstrap)
    except UsageError:
        raise UsageError(
            f"The annotators {a!r} ({sides[0].answered} rows) and {b!r} ({sides[1].answered} rows) have no rows in "
            f"common in the store {store.uri!r}; annotate the same rows with both."
        ) from None
    looked_at = reading.sampled()
    _look(store, looked_at, sides, progress)
    return AgreeReport(
        uri=store.uri,
        rows=len(store),
        a=sides[0],
        b=sides[1],
        agreement=agreement,
        disagreements=reading.patterns.most_common(),
        worst=reading.patterns.worst(shown, (a, b)),
        looked_at=tuple(row.number for row in looked_at),
        by_definition=reading.by_definition,
        also=tuple(also),
        alphas_of_all={} if reading.everyone is None else reading.everyone.alphas(bootstrap),
    )


class _Row(NamedTuple):
    number: int
    sets: tuple[int, int]


class _Patterns:
    """Kinds of disagreement with some of their rows, those that differ most, and among equals drawn by their digest."""

    def __init__(self) -> None:
        self._rows: Counter[tuple[int, int]] = Counter()
        self._examples: dict[tuple[int, int], list[tuple[float, int, int]]] = {}

    def add(self, row: int, digest: int, a: int, b: int) -> None:
        pattern = (a & ~b, b & ~a)
        if pattern not in self._rows and len(self._rows) >= MAX_PATTERNS:
            return
        self._rows[pattern] += 1
        apart = float(masi_distance(np.array(a), np.array(b)))
        examples = self._examples.setdefault(pattern, [])
        _keep(examples, (apart, digest, row), ROWS_OF_A_PATTERN)

    def most_common(self) -> tuple[Disagreement, ...]:
        ordered = sorted(self._rows.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            Disagreement(_names(only_a), _names(only_b), count, self._some(only_a, only_b))
            for (only_a, only_b), count in ordered
        )

    def worst(self, count: int, names: tuple[str, str]) -> tuple[Case, ...]:
        """Rows that differ most; of each kind some only, so that one habit does not fill the page."""
        every = [(*example, pattern) for pattern, found in self._examples.items() for example in found]
        every.sort(key=lambda item: (-item[0], -self._rows[item[3]], item[1]))
        return tuple(Case(row, _said(names, pattern)) for _, _, row, pattern in every[:count])

    def _some(self, only_a: int, only_b: int) -> tuple[int, ...]:
        return tuple(row for _, _, row in sorted(self._examples[only_a, only_b], reverse=True))


class _Reading:
    """The first pass."""

    def __init__(self, store: Store, a: str, b: str, also: tuple[str, ...], pictures: int) -> None:
        self._store, self._also, self._pictures = store, also, pictures
        self.sides = (Side(a), Side(b))
        self.tally = AgreementTally()
        self.everyone = AgreementTally(2 + len(also)) if also else None
        self.inverses = (InverseTally(), InverseTally())
        self.patterns = _Patterns()
        self.by_definition = 0
        self._sample: list[tuple[int, int, tuple[int, int]]] = []

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        names = [*(side.name for side in self.sides), *self._also]
        annotations = [read_annotations(self._store, name) for name in names]
        total = len(self._store)
        for number, (row, *given) in enumerate(zip(_meta(self._store), *annotations, strict=True)):
            self._add(number, row, given)
            if progress is not None and number % 8192 == 0:
                progress(number, total)
        if progress is not None:
            progress(total, total)

    def sampled(self) -> list[_Row]:
        """Rows whose pictures are looked at: those with the smallest digests, which is a random choice of the rows."""
        return sorted(_Row(number, sets) for _, number, sets in self._sample)

    def _add(self, number: int, row: dict[str, Any], given: Sequence[Annotation | None]) -> None:
        a, b = (self._one(i, number, row, annotation) for i, annotation in enumerate(given[:2]))
        self.tally.add(row["root"], (a, b))
        if self.everyone is not None:
            further = (ABSENT if one is None or one.tags is None else as_bits(one.tags) for one in given[2:])
            self.everyone.add(row["root"], (a, b, *further))
        if a == b == ABSENT:
            return
        digest = int.from_bytes(hashlib.blake2b(row["id"].encode(), digest_size=7).digest(), "big")
        _keep(self._sample, (-digest, number, (a, b)), self._pictures)
        if ABSENT not in (a, b) and self._is_one(row):
            self.by_definition += 1
        if ABSENT not in (a, b) and a != b:
            self.patterns.add(number, digest, a, b)

    def _is_one(self, row: dict[str, Any]) -> bool:
        """Whether canonical tags are compared with the annotator that they came from."""
        names = {side.name for side in self.sides}
        return CANONICAL in names and (row["tag_provenance"] or {}).get("annotator") in names

    def _one(self, i: int, number: int, row: dict[str, Any], annotation: Annotation | None) -> int:
        side = self.sides[i]
        status = NO_ANSWER if annotation is None else annotation.status
        side.statuses[status] += 1
        if annotation is not None:
            side.models[annotation.model] += 1
            side.versions[annotation.rules_version] += 1
        if annotation is None or annotation.tags is None:
            return ABSENT
        bits = as_bits(annotation.tags)
        names = side.rules.add(bits)
        if names and len(side.broken) < SHOWN:
            side.broken.append(Case(number, (f"{side.name} breaks: {', '.join(names)}",)))
        side.tasks.add(row["dataset"], row["native_task"], bits)
        if row["operation"] == "inverse" and row["parent"]:
            self.inverses[i].child(row["parent"], bits, number)
        return bits


def _meta(store: Store) -> Iterator[dict[str, Any]]:
    for batch in store.scan(_META, rows=8192):
        yield from batch.to_pylist()


def _join_parents(store: Store, annotator: str, tally: InverseTally) -> None:
    annotations = read_annotations(store, annotator)
    for number, (row, annotation) in enumerate(zip(_meta(store), annotations, strict=True)):
        if row["operation"] != "inverse" and annotation is not None and annotation.tags is not None:
            tally.parent(row["id"], row["root"], as_bits(annotation.tags), number)


def _look(
    store: Store, rows: list[_Row], sides: tuple[Side, Side], progress: Callable[[int, int], None] | None
) -> None:
    """Read the pictures of the chosen rows and ask what they say of the tags of each side."""
    features: list[np.ndarray | None] = []
    roots: list[str] = []
    for start in range(0, len(rows), _READ_ROWS):
        some = rows[start : start + _READ_ROWS]
        for row, read in zip(some, store.take([row.number for row in some], SCHEMA.names).to_pylist(), strict=True):
            features.append(features_of(read))
            roots.append(read["root"])
            _weigh(row, from_row(read), sides)
        if progress is not None:
            progress(len(features), len(rows))
    for i, side in enumerate(sides):
        have = [n for n, row in enumerate(rows) if row.sets[i] != ABSENT and features[n] is not None]
        chosen = np.array([features[n] for n in have])
        found = find_label_issues(chosen, [rows[n].sets[i] for n in have], [roots[n] for n in have])
        side.issues = LabelIssues(
            found.rows,
            tuple(replace(issue, number=rows[have[issue.number]].number) for issue in found.issues),
            found.reason,
        )


def _weigh(row: _Row, record: Record, sides: tuple[Side, Side]) -> None:
    """What the pixels of a row say against the tags of each side."""
    try:
        evidence = measure(record)
    except ImageError:
        evidence = None
    for side, bits in zip(sides, row.sets, strict=True):
        if evidence is not None and bits != ABSENT:
            found = conflicts(evidence, descriptor_of(bits))
            side.evidence.add(found)
            if found and len(side.conflicting) < SHOWN:
                side.conflicting.append(Case(row.number, tuple(f"{side.name}: {name}" for name in found)))


def _keep(heap: list[Any], item: Any, count: int) -> None:
    """Keep the `count` largest items."""
    if len(heap) < count:
        heapq.heappush(heap, item)
    elif count:
        heapq.heappushpop(heap, item)


def _names(bits: int) -> tuple[str, ...]:
    return tuple(TAG_NAMES[tag] for tag in tags_of(bits))


def _said(sides: tuple[str, str], pattern: tuple[int, int]) -> tuple[str, ...]:
    return tuple(f"only {side}: {', '.join(_names(bits))}" for side, bits in zip(sides, pattern, strict=True) if bits)
