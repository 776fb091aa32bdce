"""Compare two annotators of a store: a pass over their columns, a second pass for inverses, and some pictures.

Only sums and the rows to show are in memory, and 50 bytes for each inverse; otherwise memory does not grow with the
store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tagmoe.annotation.answer import CANONICAL, Annotation, read_annotations, read_rows
from tagmoe.annotation.quality.agreement import ABSENT, Agreement, AgreementTally, Gold, as_bits, masi_distance, tags_of
from tagmoe.annotation.quality.consistency import (
    FaultCounts,
    InverseConsistency,
    InverseTally,
    TaskTags,
    broken_rules,
    descriptor_of,
)
from tagmoe.annotation.quality.draw import digest_of, keep_largest
from tagmoe.annotation.quality.label_issues import LabelIssues, features_of, find_label_issues
from tagmoe.annotation.rules.evidence import conflicts, measure
from tagmoe.data.store.record import Record, from_row
from tagmoe.data.store.store import Store
from tagmoe.errors import ImageError, UsageError
from tagmoe.intervals import Bootstrap, Interval
from tagmoe.sentences import counted
from tagmoe.tags import TAG_NAMES

PICTURES = 2000
"""Default number of rows whose pictures are read."""
SHOWN = 24
"""Most rows with pictures in a section of the page."""
MAX_PATTERNS = 4096
"""Most kinds of disagreement that are counted."""
ROWS_OF_A_PATTERN = 3
NO_ANSWER = "no answer"
_READ_ROWS = 32
_META = ("id", "root", "dataset", "native_task", "operation", "parent", "tag_provenance")


class Disagreement(NamedTuple):
    """Rows with the same disagreement: the tags that only a and only b gave, and the number of rows."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    rows: int


class Case(NamedTuple):
    """A row to show, and the reasons in words."""

    row: int
    why: tuple[str, ...]


@dataclass
class Side:
    """Figures of one annotator.

    statuses: rows by status, with NO_ANSWER for rows that were not asked. models, versions: rows by model and by
    version of the rules. issues: doubted tags of the rows whose pictures were read, with row numbers of the store.
    broken: the first rows that break a rule. conflicting: the first rows whose pixels contradict the tags.
    """

    name: str
    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    rules: FaultCounts = field(default_factory=FaultCounts)
    tasks: TaskTags = field(default_factory=TaskTags)
    inverse: InverseConsistency | None = None
    issues: LabelIssues | None = None
    evidence: FaultCounts = field(default_factory=FaultCounts)
    broken: list[Case] = field(default_factory=list)
    conflicting: list[Case] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Rows with tags."""
        return self.statuses["ok"]


@dataclass(frozen=True)
class AgreeReport:
    """The content of a report.

    disagreements: the most frequent first. worst: the rows that differ most. looked_at: numbers of the rows whose
    pictures were read. by_definition: rows that agree because the canonical tags came from the other annotator. also:
    further annotators. alphas_of_all: Krippendorff's alpha of a, b and `also`, by distance.
    """

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
    bootstrap: Bootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AgreeReport:
    """Compare two annotators of a store.

    also: further annotators, for the alpha of all. gold: which of the two is gold, if any. pictures: number of rows
    whose pictures are read. Raises UsageError for an unknown annotator, an annotator
    given twice, an empty store, and no rows in common. Raises MissingError without the extra `vlm`.
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
            f"The annotators {a!r} ({counted(sides[0].answered, 'row')}) and {b!r} "
            f"({counted(sides[1].answered, 'row')}) have no rows in "
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
        worst=reading.patterns.worst(SHOWN, (a, b)),
        looked_at=tuple(row.number for row in looked_at),
        by_definition=reading.by_definition,
        also=tuple(also),
        alphas_of_all={} if reading.everyone is None else reading.everyone.alphas(bootstrap),
    )


class _Row(NamedTuple):
    number: int
    sets: tuple[int, int]


class _Patterns:
    """Counts kinds of disagreement, and keeps some rows of each; among equals a pseudo-random choice by digest."""

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
        keep_largest(examples, (apart, digest, row), ROWS_OF_A_PATTERN)

    def most_common(self) -> tuple[Disagreement, ...]:
        ordered = sorted(self._rows.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Disagreement(_names(only_a), _names(only_b), count) for (only_a, only_b), count in ordered)

    def worst(self, count: int, names: tuple[str, str]) -> tuple[Case, ...]:
        """The rows that differ most, with few rows of each kind, so that one kind does not fill the page."""
        every = [(*example, pattern) for pattern, found in self._examples.items() for example in found]
        every.sort(key=lambda item: (-item[0], -self._rows[item[3]], item[1]))
        return tuple(Case(row, _said(names, pattern)) for _, _, row, pattern in every[:count])


class _Reading:
    """The first pass over the store, which collects all counts."""

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
        for number, (row, *given) in enumerate(zip(read_rows(self._store, _META), *annotations, strict=True)):
            self._add(number, row, given)
            if progress is not None and number % 8192 == 0:
                progress(number, total)
        if progress is not None:
            progress(total, total)

    def sampled(self) -> list[_Row]:
        """The rows whose pictures are read: a pseudo-random choice, the rows with the smallest digests of their ids."""
        return sorted(_Row(number, sets) for _, number, sets in self._sample)

    def _add(self, number: int, row: dict[str, Any], given: Sequence[Annotation | None]) -> None:
        a, b = (self._one(i, number, row, annotation) for i, annotation in enumerate(given[:2]))
        self.tally.add(row["root"], (a, b))
        if self.everyone is not None:
            further = (ABSENT if one is None or one.tags is None else as_bits(one.tags) for one in given[2:])
            self.everyone.add(row["root"], (a, b, *further))
        if a == b == ABSENT:
            return
        digest = digest_of(row["id"])
        keep_largest(self._sample, (-digest, number, (a, b)), self._pictures)
        if ABSENT not in (a, b) and self._is_one(row):
            self.by_definition += 1
        if ABSENT not in (a, b) and a != b:
            self.patterns.add(number, digest, a, b)

    def _is_one(self, row: dict[str, Any]) -> bool:
        """Whether the canonical tags of this row came from the annotator that they are compared with."""
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
        names = broken_rules(bits)
        side.rules.add(names)
        if names and len(side.broken) < SHOWN:
            side.broken.append(Case(number, (f"{side.name} breaks: {', '.join(names)}",)))
        side.tasks.add(row["dataset"], row["native_task"], bits)
        if row["operation"] == "inverse" and row["parent"]:
            self.inverses[i].child(row["parent"], bits, number)
        return bits


def _join_parents(store: Store, annotator: str, tally: InverseTally) -> None:
    annotations = read_annotations(store, annotator)
    for number, (row, annotation) in enumerate(zip(read_rows(store, _META), annotations, strict=True)):
        if row["operation"] != "inverse" and annotation is not None and annotation.tags is not None:
            tally.parent(row["id"], row["root"], as_bits(annotation.tags), number)


def _look(
    store: Store, rows: list[_Row], sides: tuple[Side, Side], progress: Callable[[int, int], None] | None
) -> None:
    """Read the pictures of the chosen rows; find label issues and contradictions for each side."""
    features: list[np.ndarray | None] = []
    roots: list[str] = []
    for start in range(0, len(rows), _READ_ROWS):
        some = rows[start : start + _READ_ROWS]
        for row, read in zip(
            some, store.take([row.number for row in some], store.record_columns).to_pylist(), strict=True
        ):
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
    """Count the contradictions between the pixels of a row and the tags of each side."""
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


def _names(bits: int) -> tuple[str, ...]:
    return tuple(TAG_NAMES[tag] for tag in tags_of(bits))


def _said(sides: tuple[str, str], pattern: tuple[int, int]) -> tuple[str, ...]:
    return tuple(f"only {side}: {', '.join(_names(bits))}" for side, bits in zip(sides, pattern, strict=True) if bits)
