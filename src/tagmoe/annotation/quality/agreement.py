"""Measure how well two or more annotators agree on sets of tags.

- For each tag: Cohen's kappa (1960). Because kappa collapses for rare tags, also the prevalence of the tag, AC1
  (Gwet 2008) and PABAK (Byrt 1993).
- For sets of tags: share of equal sets, mean Jaccard index, and Krippendorff's alpha (2011) with the Jaccard or the
  MASI distance (Passonneau 2006), for any number of annotators and with missing values.
- Against a gold annotator: precision, recall and F1.

Alpha is implemented here because its package is under the GPL. A set of tags is an integer (a bit set): bit i is tag i,
and -1 stands for "no answer".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.intervals import GROUPS, Bootstrap, Interval, RootGroups
from tagmoe.tags import TAGS, TIERS

Gold = Literal["a", "b"]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
ABSENT = -1
"""Instead of a bit set: the annotator has no answer for this row."""
MAX_SETS = 2048
"""With more different sets alpha gets no interval, as the cost of a draw grows with their square."""
_TAGS = len(TAGS)
_BUFFER = 65536
_ROWS_AT_ONCE = 512
_BOTH, _ONLY_A, _ONLY_B, _NEITHER = range(4)


def as_bits(tags: Iterable[int]) -> int:
    """The bit set of some tags."""
    return sum(1 << tag for tag in set(tags))


def tags_of(bits: int) -> tuple[int, ...]:
    """The tags of a bit set, ascending."""
    return tuple(tag for tag in range(_TAGS) if bits >> tag & 1)


def jaccard_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - |A and B| / |A or B| of bit sets; 0 for two empty sets."""
    return 1.0 - _jaccard(first, second)


def masi_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - J M (Passonneau 2006): M is 1 for equal sets, 2/3 where one holds the other, 1/3 for an overlap, else 0."""
    shared = first & second
    monotone = np.where(shared == 0, 0.0, np.where((shared == first) | (shared == second), 2 / 3, 1 / 3))
    return np.where(first == second, 0.0, 1.0 - _jaccard(first, second) * monotone)


DISTANCES: dict[str, Distance] = {"jaccard": jaccard_distance, "masi": masi_distance}


def cohen_kappa(table: np.ndarray) -> np.ndarray:
    """Kappa of (..., 4) counts (both, only a, only b, neither); NaN where nobody or everybody gives the tag."""
    both, only_a, only_b, neither, rows = _cells(table)
    a, b = (both + only_a) / rows, (both + only_b) / rows
    chance = a * b + (1 - a) * (1 - b)
    return _ratio((both + neither) / rows - chance, 1 - chance)


def ac1(table: np.ndarray) -> np.ndarray:
    """Gwet's first-order agreement coefficient of the same counts: chance is 2 p (1 - p) of the mean share p."""
    both, only_a, only_b, neither, rows = _cells(table)
    share = (2 * both + only_a + only_b) / (2 * rows)
    chance = 2 * share * (1 - share)
    return _ratio((both + neither) / rows - chance, 1 - chance)


def pabak(table: np.ndarray) -> np.ndarray:
    """Kappa adjusted for prevalence and bias: 2 x observed agreement - 1."""
    both, _, _, neither, rows = _cells(table)
    return 2 * (both + neither) / rows - 1


def tag_tables(group_N: np.ndarray, a_N: np.ndarray, b_N: np.ndarray, groups: int) -> np.ndarray:
    """Counts of both, only a, only b, neither for each group and tag, (groups, 18, 4), of sets as numbers."""
    a_NK, b_NK = _as_matrix(a_N), _as_matrix(b_N)
    cell_NK = np.where(a_NK, np.where(b_NK, _BOTH, _ONLY_A), np.where(b_NK, _ONLY_B, _NEITHER))
    place = (group_N[:, None] * _TAGS + np.arange(_TAGS)) * 4 + cell_NK
    return np.bincount(place.ravel(), minlength=groups * _TAGS * 4).reshape(groups, _TAGS, 4)


def tag_f1(table: np.ndarray) -> np.ndarray:
    """F1 of (..., 4) counts, whichever side is gold; NaN where neither gives the tag."""
    return _ratio(2 * table[..., _BOTH], 2 * table[..., _BOTH] + table[..., _ONLY_A] + table[..., _ONLY_B])


def micro_f1(table: np.ndarray) -> np.ndarray:
    """F1 of all tags together, of (..., 18, 4) counts."""
    return tag_f1(table.sum(axis=-2))


def macro_f1(table: np.ndarray, gold: Gold) -> np.ndarray:
    """Mean F1 over the tags that gold gives, of (..., 18, 4) counts."""
    only_gold = _ONLY_A if gold == "a" else _ONLY_B
    given = (table[..., _BOTH] + table[..., only_gold]) > 0
    f1 = np.where(given, np.nan_to_num(tag_f1(table)), 0.0)
    return _ratio(f1.sum(axis=-1), given.sum(axis=-1))


@dataclass(frozen=True)
class TagAgreement:
    """Agreement on one tag.

    both, only_a, only_b: number of rows. share_a, share_b: share of the rows with the tag (prevalence). precision,
    recall, f1: against gold, None without gold.
    """

    tag: str
    tier: str
    both: int
    only_a: int
    only_b: int
    share_a: float
    share_b: float
    agreement: float
    kappa: Interval[float | None]
    ac1: Interval[float | None]
    pabak: Interval[float | None]
    precision: Interval[float | None] | None = None
    recall: Interval[float | None] | None = None
    f1: Interval[float | None] | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of two annotators a and b on the rows that both answered, and alpha of all annotators.

    rows: number of those rows. roots: number of their root pictures, or of groups of them. tiers: share of rows with
    equal tags, by tier. micro_f1: of all tags together. macro_f1: mean over the tags in gold.

    confusion_LL[i, j]: rows in which only a gave tag i and only b gave tag j. The last index means that this annotator
    gave no tag that the other did not give. On the diagonal: rows in which both gave the tag, and last the rows with
    equal sets.
    """

    rows: int
    roots: int
    draws: int
    seed: int
    exact: Interval[float | None]
    jaccard: Interval[float | None]
    alpha_jaccard: Interval[float | None]
    alpha_masi: Interval[float | None]
    tiers: dict[str, Interval[float | None]]
    tags: tuple[TagAgreement, ...]
    confusion_LL: np.ndarray
    gold: Gold | None = None
    micro_precision: Interval[float | None] | None = None
    micro_recall: Interval[float | None] | None = None
    micro_f1: Interval[float | None] | None = None
    macro_f1: Interval[float | None] | None = None


class AgreementTally:
    """Collects sums over rows, from which all figures follow. Its memory does not grow with the number of rows."""

    def __init__(self, annotators: int = 2) -> None:
        if annotators < 2:
            raise UsageError(f"The number of annotators is {annotators}; agreement needs 2 or more.")
        self._annotators = annotators
        self._groups = RootGroups()
        self._buffer: list[tuple[int, ...]] = []
        self._table_GK4 = np.zeros((GROUPS, _TAGS, 4), np.int64)
        # rows, equal sets, sum of Jaccard, equal sets of each tier
        self._sums_G = np.zeros((GROUPS, 3 + len(TIERS)))
        self._apart_G = {name: np.zeros(GROUPS) for name in DISTANCES}
        self._confusion_LL = np.zeros((_TAGS + 1, _TAGS + 1), np.int64)
        self._totals = np.zeros(1 << _TAGS, np.int64)
        self._column: dict[int, int] = {}
        self._counts_GU = np.zeros((GROUPS, 64), np.int32)

    def add(self, root: str, sets: Sequence[int]) -> None:
        """Add one row. sets: the bit set of each annotator, or ABSENT."""
        if len(sets) != self._annotators:
            raise UsageError(f"A row has {len(sets)} sets of tags; there are {self._annotators} annotators.")
        if sum(bits != ABSENT for bits in sets) < 2:
            return
        self._buffer.append((self._groups.number(root), *sets))
        if len(self._buffer) == _BUFFER:
            self._flush()

    def alphas(self, bootstrap: Bootstrap) -> dict[str, Interval[float | None]]:
        """Krippendorff's alpha of all annotators, by the name of the distance."""
        self._flush()
        weights_DG = bootstrap.weights(max(1, len(self._groups)))
        return {name: self._alpha(name, weights_DG, bootstrap) for name in DISTANCES}

    def result(self, *, bootstrap: Bootstrap, gold: Gold | None = None) -> Agreement:
        """All figures of the rows added so far. Raises UsageError when no row has answers of both a and b."""
        self._flush()
        groups = len(self._groups)
        sums_G, table_GK4 = self._sums_G[:groups], self._table_GK4[:groups]
        rows = int(sums_G[:, 0].sum())
        if not rows:
            raise UsageError("The annotators have no rows in common; annotate the same rows with both.")
        weights_DG = bootstrap.weights(groups)
        sums_D = weights_DG @ sums_G
        table_DK4 = np.tensordot(weights_DG, table_GK4, axes=1)
        table_K4 = table_GK4.sum(axis=0)

        def mean(column: int) -> Interval[float | None]:
            draws = _ratio(sums_D[:, column], sums_D[:, 0])
            return bootstrap.interval(float(sums_G[:, column].sum()) / rows, draws, groups)

        def of(figure: Callable[[np.ndarray], np.ndarray], tag: int) -> Interval[float | None]:
            return bootstrap.interval(float(figure(table_K4[tag])), figure(table_DK4[:, tag]), groups)

        tags = tuple(_tag_agreement(tag, table_K4[tag], rows, of, gold) for tag in range(_TAGS))
        together: dict[str, Interval[float | None]] = {}
        if gold is not None:
            whole, drawn = table_K4.sum(axis=0), table_DK4.sum(axis=1)
            for name, figure in _gold_figures(gold).items():
                together[f"micro_{name}"] = bootstrap.interval(float(figure(whole)), figure(drawn), groups)
            value, draws_D = macro_f1(table_K4, gold), macro_f1(table_DK4, gold)
            together["macro_f1"] = bootstrap.interval(float(value), draws_D, groups)
        alphas = self.alphas(bootstrap)
        return Agreement(
            rows=rows,
            roots=groups,
            draws=bootstrap.draws,
            seed=bootstrap.seed,
            exact=mean(1),
            jaccard=mean(2),
            alpha_jaccard=alphas["jaccard"],
            alpha_masi=alphas["masi"],
            tiers={tier: mean(3 + number) for number, tier in enumerate(TIERS)},
            tags=tags,
            confusion_LL=self._confusion_LL.copy(),
            gold=gold,
            **together,
        )

    def _flush(self) -> None:
        if not self._buffer:
            return
        buffer = np.array(self._buffer, dtype=np.int64)
        self._buffer = []
        group_N, sets_NR = buffer[:, 0], buffer[:, 1:]
        paired = (sets_NR[:, :2] != ABSENT).all(axis=1)
        self._add_pairs(group_N[paired], sets_NR[paired, 0], sets_NR[paired, 1])
        self._add_units(group_N, sets_NR)

    def _add_pairs(self, group_N: np.ndarray, a_N: np.ndarray, b_N: np.ndarray) -> None:
        a_NK, b_NK = (_as_matrix(sets) for sets in (a_N, b_N))
        self._table_GK4 += tag_tables(group_N, a_N, b_N, GROUPS)
        values = [np.ones(len(a_N)), a_N == b_N, _jaccard(a_N, b_N)]
        for tier in TIERS:
            mask = as_bits(tag.index for tag in TAGS if tag.tier == tier)
            values.append((a_N & mask) == (b_N & mask))
        for column, value in enumerate(values):
            self._sums_G[:, column] += np.bincount(group_N, weights=value, minlength=GROUPS)
        only_a, only_b = (_or_nothing(only).astype(np.float64) for only in (a_NK & ~b_NK, b_NK & ~a_NK))
        self._confusion_LL += (only_a.T @ only_b).astype(np.int64)
        self._confusion_LL[range(_TAGS), range(_TAGS)] += (a_NK & b_NK).sum(axis=0)

    def _add_units(self, group_N: np.ndarray, sets_NR: np.ndarray) -> None:
        """Add rows to the sums of alpha. Each pair of values of a row has the weight 1 / (number of its values - 1)."""
        values_N = (sets_NR != ABSENT).sum(axis=1)
        for i in range(self._annotators):
            for j in range(i):
                there = (sets_NR[:, i] != ABSENT) & (sets_NR[:, j] != ABSENT)
                for name, distance in DISTANCES.items():
                    apart = 2 * distance(sets_NR[there, i], sets_NR[there, j]) / (values_N[there] - 1)
                    self._apart_G[name] += np.bincount(group_N[there], weights=apart, minlength=GROUPS)
        there_NR = sets_NR != ABSENT
        given, group = sets_NR[there_NR], np.broadcast_to(group_N[:, None], sets_NR.shape)[there_NR]
        found, inverse = np.unique(given, return_inverse=True)
        self._totals[found] += np.bincount(inverse, minlength=len(found))
        columns = np.array([self._column.setdefault(int(bits), len(self._column)) for bits in found], dtype=np.int64)
        if len(self._column) > MAX_SETS:
            return
        while len(self._column) > self._counts_GU.shape[1]:
            self._counts_GU = np.concatenate([self._counts_GU, np.zeros_like(self._counts_GU)], axis=1)
        np.add.at(self._counts_GU, (group, columns[inverse]), 1)

    def _alpha(self, name: str, weights_DG: np.ndarray, bootstrap: Bootstrap) -> Interval[float | None]:
        distance, groups = DISTANCES[name], weights_DG.shape[1]
        sets = np.flatnonzero(self._totals)
        counts = self._totals[sets].astype(np.float64)
        expected = 0.0
        for start in range(0, len(sets), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            expected += float(counts[part] @ distance(sets[part, None], sets[None]) @ counts)
        apart_G = self._apart_G[name][:groups]
        value = float(_alpha_of(counts.sum(), apart_G.sum(), expected))
        if len(self._column) > MAX_SETS:
            return bootstrap.interval(value, np.full(bootstrap.draws, np.nan), groups)
        order = np.array(list(self._column), dtype=np.int64)
        counts_DU = weights_DG @ self._counts_GU[:groups, : len(order)]
        expected_D = ((counts_DU @ distance(order[:, None], order[None])) * counts_DU).sum(axis=1)
        draws_D = _alpha_of(counts_DU.sum(axis=1), weights_DG @ apart_G, expected_D)
        return bootstrap.interval(value, draws_D, groups)


def _alpha_of(values: np.ndarray, apart: np.ndarray, expected: np.ndarray | float) -> np.ndarray:
    """1 - D_o / D_e with D_o = apart / n and D_e = expected / (n (n - 1)), n the number of values."""
    return 1 - _ratio((values - 1) * apart, expected)


def _tag_agreement(
    tag: int,
    table_4: np.ndarray,
    rows: int,
    of: Callable[[Callable[[np.ndarray], np.ndarray], int], Interval[float | None]],
    gold: Gold | None,
) -> TagAgreement:
    both, only_a, only_b, neither = map(int, table_4)
    against = {} if gold is None else {name: of(figure, tag) for name, figure in _gold_figures(gold).items()}
    return TagAgreement(
        tag=TAGS[tag].name,
        tier=TAGS[tag].tier,
        both=both,
        only_a=only_a,
        only_b=only_b,
        share_a=(both + only_a) / rows,
        share_b=(both + only_b) / rows,
        agreement=(both + neither) / rows,
        kappa=of(cohen_kappa, tag),
        ac1=of(ac1, tag),
        pabak=of(pabak, tag),
        **against,
    )


def _gold_figures(gold: Gold) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Functions for precision, recall and F1 of the annotator that is not gold; NaN if the denominator is 0."""
    extra, missed = (_ONLY_B, _ONLY_A) if gold == "a" else (_ONLY_A, _ONLY_B)

    def precision(table: np.ndarray) -> np.ndarray:
        return _ratio(table[..., _BOTH], table[..., _BOTH] + table[..., extra])

    def recall(table: np.ndarray) -> np.ndarray:
        return _ratio(table[..., _BOTH], table[..., _BOTH] + table[..., missed])

    return {"precision": precision, "recall": recall, "f1": tag_f1}


def _as_matrix(sets_N: np.ndarray) -> np.ndarray:
    return (sets_N[:, None] >> np.arange(_TAGS) & 1).astype(bool)


def _or_nothing(tags_NK: np.ndarray) -> np.ndarray:
    """The matrix with one more column: no tag at all."""
    return np.concatenate([tags_NK, ~tags_NK.any(axis=1, keepdims=True)], axis=1)


def _jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    union = np.bitwise_count(first | second)
    return np.where(union == 0, 1.0, np.bitwise_count(first & second) / np.maximum(union, 1))


def _cells(table: np.ndarray) -> tuple[np.ndarray, ...]:
    cells = np.asarray(table, dtype=np.float64)
    rows = cells.sum(axis=-1)
    return (*np.moveaxis(cells, -1, 0), np.where(rows == 0, np.nan, rows))


def _ratio(above: np.ndarray | float, below: np.ndarray | float) -> np.ndarray:
    """above / below; NaN where below is zero up to rounding."""
    below = np.asarray(below, dtype=np.float64)
    nothing = np.abs(below) < 1e-12
    return np.where(nothing, np.nan, np.asarray(above, dtype=np.float64) / np.where(nothing, 1.0, below))
