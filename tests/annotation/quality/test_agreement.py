"""Agreement: published examples, a slow reference, and what must hold for any answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.annotated_stores import alpha_of

from tagmoe.annotation.quality.agreement import (
    ABSENT,
    AgreementTally,
    ac1,
    as_bits,
    cohen_kappa,
    jaccard_distance,
    masi_distance,
    pabak,
    tags_of,
)
from tagmoe.errors import UsageError
from tagmoe.intervals import GROUPS, Bootstrap, RootGroups
from tagmoe.tags import TAGS

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, missing values.
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
# The same, section A: two observers, binary.
TWO = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]


def units_of(observers):
    return [[None if value is None else {value} for value in unit] for unit in zip(*observers, strict=True)]


def slow_alpha(units, distance):
    """The definition, pair by pair."""

    def apart(first, second):
        first, second = set(first), set(second)
        if first == second:
            return 0.0
        shared = first & second
        jaccard = len(shared) / len(first | second)
        if distance == "jaccard":
            return 1 - jaccard
        monotone = 2 / 3 if first <= second or second <= first else 1 / 3 if shared else 0
        return 1 - jaccard * monotone

    units = [[value for value in unit if value is not None] for unit in units]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    count = len(values)
    observed = sum(
        apart(unit[i], unit[j]) / (len(unit) - 1)
        for unit in units
        for i in range(len(unit))
        for j in range(len(unit))
        if i != j
    )
    expected = sum(apart(values[i], values[j]) for i in range(count) for j in range(count) if i != j)
    return None if expected == 0 else 1 - (observed / count) / (expected / (count * (count - 1)))


@pytest.mark.parametrize("distance", ["jaccard", "masi"])
@pytest.mark.parametrize(("observers", "published"), [(FOUR, 0.743), (TWO, 0.095)])
def test_alpha_of_published_nominal_data(observers, published, distance):
    """Of sets with one member both distances are the nominal one."""
    assert alpha_of(units_of(observers), distance) == pytest.approx(published, abs=5e-4)


def test_kappa_ac1_and_pabak_of_published_tables():
    # Gwet 2008, table 2: 125 subjects, kappa -0.0234 and AC1 0.9408 at an agreement of 0.944.
    gwet = np.array([118, 5, 2, 0])
    assert float(cohen_kappa(gwet)) == pytest.approx(-0.0234, abs=5e-5)
    assert float(ac1(gwet)) == pytest.approx(0.9408, abs=5e-5)
    assert float(pabak(gwet)) == pytest.approx(2 * 0.944 - 1)
    assert float(cohen_kappa(np.array([20, 5, 10, 15]))) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa(np.array([0, 0, 0, 9])))
    assert float(ac1(np.array([0, 0, 0, 9]))) == 1.0


def test_distances_by_passonneaus_definition():
    def both(first, second):
        sets = [np.array([as_bits(value)]) for value in (first, second)]
        return float(jaccard_distance(*sets)[0]), float(masi_distance(*sets)[0])

    assert both({1, 2}, {1, 2}) == (0, 0)
    assert both({1, 2}, {1, 2, 3, 4}) == pytest.approx((1 / 2, 1 - 1 / 2 * 2 / 3))
    assert both({1, 2}, {2, 3}) == pytest.approx((2 / 3, 1 - 1 / 3 * 1 / 3))
    assert both({1}, {2}) == (1, 1)
    assert both((), ()) == (0, 0)
    assert both((), {3}) == (1, 1)


SETS = st.one_of(st.none(), st.sets(st.integers(0, 4), max_size=3))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    units=st.integers(2, 4).flatmap(
        lambda n: st.lists(st.lists(SETS, min_size=n, max_size=n), min_size=1, max_size=12)
    ),
    distance=st.sampled_from(["jaccard", "masi"]),
)
def test_alpha_is_the_slow_definition_and_knows_no_order(units, distance):
    wanted = slow_alpha(units, distance)
    for given_units in (units, [unit[::-1] for unit in units]):
        found = alpha_of(given_units, distance)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert found == pytest.approx(wanted, abs=1e-9)


def tally_of(pairs, roots=None):
    tally = AgreementTally()
    for number, pair in enumerate(pairs):
        tally.add(str(number) if roots is None else roots[number], pair)
    return tally


def random_sets(count, seed):
    random = np.random.default_rng(seed)
    return [as_bits(np.flatnonzero(row)) for row in random.random((count, len(TAGS))) < random.random(len(TAGS)) * 0.6]


@pytest.mark.slow
def test_equal_answers_agree_wholly_and_shuffled_ones_by_chance():
    sets = random_sets(1000, 0)
    same = tally_of(zip(sets, sets, strict=True)).result(gold="b", bootstrap=Bootstrap())
    assert (same.exact.value, same.jaccard.value, same.alpha_jaccard.value, same.alpha_masi.value) == (1, 1, 1, 1)
    assert (same.micro_f1.value, same.macro_f1.value) == (1, 1)
    assert all(tag.kappa.value in (1, None) for tag in same.tags)
    other = [sets[i] for i in np.random.default_rng(1).permutation(len(sets))]
    shuffled = tally_of(zip(sets, other, strict=True)).result(bootstrap=Bootstrap())
    for alpha in (shuffled.alpha_jaccard, shuffled.alpha_masi):
        assert abs(alpha.value) < 0.04
        assert alpha.low < 0.04
        assert alpha.high > -0.04
    kappas = [tag.kappa.value for tag in shuffled.tags if tag.kappa.value is not None]
    assert len(kappas) >= 15
    assert max(map(abs, kappas)) < 0.15


@pytest.mark.slow
def test_exchanging_the_annotators_exchanges_only_what_has_a_side():
    first, second = random_sets(300, 2), random_sets(300, 3)
    there = tally_of(zip(first, second, strict=True)).result(gold="b", bootstrap=Bootstrap())
    back = tally_of(zip(second, first, strict=True)).result(gold="a", bootstrap=Bootstrap())
    for name in ("exact", "jaccard", "alpha_jaccard", "alpha_masi", "micro_precision", "micro_recall", "macro_f1"):
        assert getattr(there, name).value == pytest.approx(getattr(back, name).value)
    assert [tag.kappa for tag in there.tags] == [tag.kappa for tag in back.tags]
    assert [tag.only_a for tag in there.tags] == [tag.only_b for tag in back.tags]
    np.testing.assert_array_equal(there.confusion_LL, back.confusion_LL.T)


def test_figures_against_gold_counted_by_hand():
    # tag 0: gold in rows 0 and 1, found in rows 1 and 2; tag 6: gold in row 0, never found
    pairs = [(as_bits([]), as_bits([0, 6])), (as_bits([0]), as_bits([0])), (as_bits([0, 7]), as_bits([8]))]
    found = tally_of(pairs).result(gold="b", bootstrap=Bootstrap())
    tag = found.tags[0]
    assert (tag.both, tag.only_a, tag.only_b) == (1, 1, 1)
    assert (tag.precision.value, tag.recall.value, tag.f1.value) == (0.5, 0.5, 0.5)
    assert found.tags[6].precision.value is None
    assert found.tags[6].f1.value == 0
    assert found.macro_f1.value == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.micro_f1.value == pytest.approx(2 * 1 / (3 + 4))
    assert found.exact.value == pytest.approx(1 / 3)
    assert found.tiers["scope"].value == pytest.approx(1 / 3)
    assert found.confusion_LL[7, 8] == 1
    assert found.confusion_LL[0, 0] == 1
    # row 0: b has two tags, where a has nothing that b has not
    assert found.confusion_LL[18].tolist() == [1, 0, 0, 0, 0, 0, 1, *[0] * 11, 1]


def test_rows_that_one_has_not_answered_are_left_out():
    found = tally_of([(1, ABSENT), (1, 1), (ABSENT, ABSENT), (2, 1)]).result(bootstrap=Bootstrap())
    assert (found.rows, found.exact.value) == (2, 0.5)
    with pytest.raises(UsageError, match="no rows in common"):
        tally_of([(1, ABSENT), (ABSENT, 1)]).result(bootstrap=Bootstrap())


def test_relatives_of_one_picture_widen_the_interval():
    """40 pictures with 25 rows each that are right or wrong together, against 1,000 independent rows."""
    random = np.random.default_rng(5)
    right = random.random(40) < 0.7
    pairs = [(1, 1 if good else 2) for good in right for _ in range(25)]
    alone = tally_of(pairs).result(bootstrap=Bootstrap()).exact
    together = tally_of(pairs, [str(number // 25) for number in range(1000)]).result(bootstrap=Bootstrap()).exact
    assert alone.value == together.value == pytest.approx(right.mean())
    assert together.high - together.low > 3 * (alone.high - alone.low)


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    random = np.random.default_rng(7)
    truth, covered = 0.8, 0
    for _ in range(150):
        pairs = [(1, 1 if random.random() < truth else 2) for _ in range(80)]
        exact = tally_of(pairs).result(bootstrap=Bootstrap(400)).exact
        covered += exact.low <= truth <= exact.high
    assert 0.88 <= covered / 150 <= 1.0


def test_equal_data_give_equal_intervals_and_few_rows_none():
    pairs = list(zip(random_sets(60, 8), random_sets(60, 9), strict=True))
    assert tally_of(pairs).result(bootstrap=Bootstrap()).tags == tally_of(pairs).result(bootstrap=Bootstrap()).tags
    assert (
        tally_of(pairs).result(bootstrap=Bootstrap(seed=1)).jaccard
        != tally_of(pairs).result(bootstrap=Bootstrap()).jaccard
    )
    few = tally_of(pairs[:4]).result(bootstrap=Bootstrap())
    assert few.exact.value is not None
    assert not few.exact.has_interval


def test_many_roots_share_groups_and_sums_stay_whole(monkeypatch):
    groups = RootGroups()
    numbers = [groups.number(str(root)) for root in range(3 * GROUPS)]
    assert len(groups) == GROUPS
    assert numbers[:GROUPS] == list(range(GROUPS))
    assert set(numbers) == set(range(GROUPS))
    assert numbers[-5:] == [groups.number(str(root)) for root in range(3 * GROUPS)][-5:]
    monkeypatch.setattr("tagmoe.annotation.quality.agreement._BUFFER", 7)
    pairs = list(zip(random_sets(100, 4), random_sets(100, 5), strict=True))
    small = tally_of(pairs).result(gold="a", bootstrap=Bootstrap())
    monkeypatch.undo()
    whole = tally_of(pairs).result(gold="a", bootstrap=Bootstrap())
    assert small.tags == whole.tags
    assert small.alpha_masi.value == pytest.approx(whole.alpha_masi.value)


def test_too_many_sets_leave_alpha_without_an_interval(monkeypatch):
    pairs = list(zip(random_sets(80, 4), random_sets(80, 5), strict=True))
    whole = tally_of(pairs).result(bootstrap=Bootstrap()).alpha_jaccard
    monkeypatch.setattr("tagmoe.annotation.quality.agreement.MAX_SETS", 20)
    bare = tally_of(pairs).result(bootstrap=Bootstrap()).alpha_jaccard
    assert bare.value == pytest.approx(whole.value)
    assert whole.has_interval
    assert not bare.has_interval


def test_bits_go_both_ways_and_bad_numbers_are_refused():
    assert tags_of(as_bits([17, 0, 5])) == (0, 5, 17)
    with pytest.raises(UsageError, match="2 or more"):
        AgreementTally(1)
    with pytest.raises(UsageError, match="there are 2 annotators"):
        AgreementTally().add("r", [1])
    with pytest.raises(UsageError, match="100 or more"):
        Bootstrap(3)
