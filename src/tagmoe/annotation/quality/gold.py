"""Compare two versions of an annotator against a gold set: is the new one better, and nowhere worse?

Both versions use the same rows and the same bootstrap draws, so that the interval of the difference is a paired one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.annotation.answer import CANONICAL, read_annotations, read_rows
from tagmoe.annotation.quality.agreement import ABSENT, as_bits, macro_f1, micro_f1, tag_f1, tag_tables
from tagmoe.annotation.quality.consistency import SHARED_TAGS
from tagmoe.annotation.quality.draw import digest_of, keep_largest
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.intervals import Bootstrap, Interval
from tagmoe.tags import TAG_NAMES

ROUNDING = 1e-9
_META = ("id", "root", "operation", "parent", "tag_provenance")
_SHARED = as_bits(SHARED_TAGS)


@dataclass(frozen=True)
class GoldSet:
    """The rows to annotate: rows with gold tags, and the rows that form an inverse pair with one of them.

    rows: ascending row numbers. roots: root of each row. sets: gold tags of each row as a bit set, or ABSENT for a row
    that is there only for its pair. pairs: indices into `rows` of an edit and its inverse.
    """

    rows: tuple[int, ...]
    roots: tuple[str, ...]
    sets: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def gold_rows(self) -> int:
        """Number of rows with gold tags."""
        return sum(bits != ABSENT for bits in self.sets)


@dataclass(frozen=True)
class Change:
    """A figure before and after. difference: after - before, with its paired interval."""

    before: float | None
    after: float | None
    difference: Interval[float | None]

    @property
    def falls(self) -> bool:
        """Whether it is lower after."""
        return self.difference.value is not None and self.difference.value < -ROUNDING


@dataclass(frozen=True)
class Comparison:
    """Figures of both versions.

    rows: rows with gold tags. pairs: inverse pairs. micro_f1: of all tags together. macro_f1: mean over the tags.
    inverse: share of inverse pairs with the same scope and type. tags: (before, after) F1 of each tag in gold.
    """

    rows: int
    pairs: int
    micro_f1: Change
    macro_f1: Change
    inverse: Change
    tags: dict[str, tuple[float, float]]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the new version must not be adopted; empty when it may."""
        named = (
            ("gold F1 of all tags", self.micro_f1),
            ("mean gold F1 of the tags", self.macro_f1),
            ("inverse-consistency", self.inverse),
        )
        return tuple(
            f"{name} falls from {change.before:.3f} to {change.after:.3f}" for name, change in named if change.falls
        )


def gold_set(store: Store, annotator: str, limit: int | None = None, *, judged: str | None = None) -> GoldSet:
    """The rows that this annotator has tagged, and their inverse pairs.

    limit: number of rows to draw; the choice is pseudo-random by digests of the ids. judged: the annotator that will be
    compared with gold; canonical tags that came from it are left out.
    Raises UsageError for an unknown annotator and for one without tags.
    """
    chosen: list[tuple[int, int, str, str, int]] = []
    for number, (row, given) in enumerate(
        zip(read_rows(store, _META), read_annotations(store, annotator), strict=True)
    ):
        own = annotator == CANONICAL and (row["tag_provenance"] or {}).get("annotator") == judged
        if given is None or given.tags is None or own:
            continue
        keep_largest(chosen, (-digest_of(row["id"]), number, row["id"], row["root"], as_bits(given.tags)), limit)
    if not chosen:
        but = f" but those that {judged!r} gave" if judged is not None and annotator == CANONICAL else ""
        raise UsageError(
            f"The annotator {annotator!r} has tags of no row in the store {store.uri!r}{but}; it cannot be gold."
        )
    found = {number: (root, bits) for _, number, _, root, bits in chosen}
    gold_ids = {name: number for _, number, name, _, _ in chosen}
    parents: dict[str, int] = {}
    joined: list[tuple[str, int]] = []
    for number, row in enumerate(read_rows(store, _META)):
        if row["operation"] == "inverse" and (row["parent"] in gold_ids or number in found):
            found.setdefault(number, (row["root"], ABSENT))
            joined.append((row["parent"], number))
            parents.setdefault(row["parent"], -1)
    for number, row in enumerate(read_rows(store, _META)):
        if row["id"] in parents and row["operation"] != "inverse":
            found.setdefault(number, (row["root"], ABSENT))
            parents[row["id"]] = number
    rows = tuple(sorted(found))
    place = {number: index for index, number in enumerate(rows)}
    return GoldSet(
        rows,
        tuple(found[number][0] for number in rows),
        tuple(found[number][1] for number in rows),
        tuple((place[parents[name]], place[child]) for name, child in joined if parents[name] >= 0),
    )


def compare(
    gold: GoldSet, before: Sequence[int], after: Sequence[int], bootstrap: Bootstrap | None = None
) -> Comparison:
    """Compare two versions. before, after: tags as bit sets in the order of `gold.rows`; ABSENT counts as no tag."""
    bootstrap = bootstrap or Bootstrap()
    roots, group_N = np.unique(np.array(gold.roots), return_inverse=True)
    groups = len(roots)
    weights_DG = bootstrap.weights(groups)
    sets_N = np.array(gold.sets, dtype=np.int64)
    has_gold = sets_N != ABSENT
    answers = [np.maximum(np.array(sets, dtype=np.int64), 0) for sets in (before, after)]
    tables = [tag_tables(group_N[has_gold], sets[has_gold], sets_N[has_gold], groups) for sets in answers]
    whole = [table.sum(axis=0) for table in tables]
    drawn = [np.tensordot(weights_DG, table, axes=1) for table in tables]

    def change(figure: Callable[[np.ndarray], np.ndarray]) -> Change:
        values, draws = [float(figure(table)) for table in whole], [figure(table) for table in drawn]
        return Change(values[0], values[1], bootstrap.interval(values[1] - values[0], draws[1] - draws[0], groups))

    given = [tag for tag in range(len(TAG_NAMES)) if (sets_N[has_gold] >> tag & 1).any()]
    f1 = [tag_f1(table) for table in whole]
    return Comparison(
        rows=int(has_gold.sum()),
        pairs=len(gold.pairs),
        micro_f1=change(micro_f1),
        macro_f1=change(lambda table: macro_f1(table, "b")),
        inverse=_inverse_change(gold, group_N, answers, weights_DG, bootstrap),
        tags={TAG_NAMES[tag]: (float(f1[0][tag]), float(f1[1][tag])) for tag in given},
    )


def _inverse_change(
    gold: GoldSet, group_N: np.ndarray, answers: list[np.ndarray], weights_DG: np.ndarray, bootstrap: Bootstrap
) -> Change:
    if not gold.pairs:
        return Change(None, None, Interval(0, None, None, None))
    parent, child = np.array(gold.pairs).T
    groups = weights_DG.shape[1]
    counts_G = np.bincount(group_N[parent], minlength=groups)
    below_D = weights_DG @ counts_G
    values, draws = [], []
    for sets in answers:
        same = (sets[parent] & _SHARED) == (sets[child] & _SHARED)
        same_G = np.bincount(group_N[parent], weights=same, minlength=groups)
        values.append(float(same.mean()))
        draws.append(np.where(below_D == 0, np.nan, weights_DG @ same_G / np.maximum(below_D, 1)))
    return Change(values[0], values[1], bootstrap.interval(values[1] - values[0], draws[1] - draws[0], groups))
