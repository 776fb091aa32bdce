"""Two versions against a gold set: what falls is refused, and the difference has the interval of a pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.annotated_stores import annotate, careless, stored, world_records

from tagmoe.annotation.quality.agreement import ABSENT, AgreementTally
from tagmoe.annotation.quality.gold import GoldSet, compare, gold_set
from tagmoe.data.inverse.invert import Rules, invert
from tagmoe.data.store.record import TagProvenance
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.intervals import Bootstrap
from tagmoe.tags import TAG_NAMES, index

FLIP = 1 << index("pose editing")


def made_set(count=200, seed=0, pairs=40):
    random = np.random.default_rng(seed)
    sets = tuple(int(bits) for bits in random.integers(1, 1 << 18, count))
    # the second of a pair is an edit like the first
    sets = tuple(sets[i - 1] if i < 2 * pairs and i % 2 else bits for i, bits in enumerate(sets))
    joined = tuple((2 * i, 2 * i + 1) for i in range(pairs))
    return GoldSet(tuple(range(count)), tuple(str(i // 2) for i in range(count)), sets, joined)


def noisy(sets, share, seed):
    random = np.random.default_rng(seed)
    return [bits ^ (1 << int(random.integers(18))) if random.random() < share else bits for bits in sets]


def test_figures_are_those_of_agreement():
    gold = made_set()
    before, after = noisy(gold.sets, 0.5, 1), noisy(gold.sets, 0.2, 2)
    found = compare(gold, before, after)
    for sets, micro, macro in (
        (before, found.micro_f1.before, found.macro_f1.before),
        (after, found.micro_f1.after, found.macro_f1.after),
    ):
        tally = AgreementTally()
        for root, bits, gold_bits in zip(gold.roots, sets, gold.sets, strict=True):
            tally.add(root, (bits, gold_bits))
        wanted = tally.result(gold="b", bootstrap=Bootstrap())
        assert micro == pytest.approx(wanted.micro_f1.value)
        assert macro == pytest.approx(wanted.macro_f1.value)
    assert found.reasons == ()
    assert found.micro_f1.difference.low > 0
    assert found.rows == 200
    assert found.pairs == 40


def test_a_version_that_is_the_same_is_not_worse():
    gold = made_set()
    before = noisy(gold.sets, 0.3, 1)
    found = compare(gold, before, list(before))
    assert found.reasons == ()
    for change in (found.micro_f1, found.macro_f1, found.inverse):
        assert (change.difference.value, change.difference.low, change.difference.high) == (0, 0, 0)


def test_each_figure_that_falls_is_a_reason():
    gold = made_set()
    worse = compare(gold, gold.sets, noisy(gold.sets, 0.2, 3))
    assert len(worse.reasons) == 3
    assert worse.reasons[0].startswith("gold F1 of all tags falls from 1.000 to 0.9")
    # better against gold, but now an edit and its inverse differ
    before = [bits ^ FLIP for bits in gold.sets]
    after = [bits ^ FLIP if i < 80 and i % 2 else bits for i, bits in enumerate(gold.sets)]
    mixed = compare(gold, before, after)
    assert mixed.micro_f1.difference.value > 0
    assert mixed.inverse.before == 1
    assert mixed.inverse.after == 0
    assert [reason.split(" falls")[0] for reason in mixed.reasons] == ["inverse-consistency"]


def test_a_common_tag_does_not_hide_a_rare_one():
    """Tag 0 in all rows, tag 1 in two: the new version mends tag 0 in five rows and loses tag 1 altogether."""
    sets = [1] * 98 + [3] * 2
    gold = GoldSet(tuple(range(100)), tuple(map(str, range(100))), tuple(sets), ())
    before = [0] * 5 + sets[5:]
    found = compare(gold, before, [1] * 100)
    assert found.micro_f1.difference.value > 0
    assert [reason.split(" falls")[0] for reason in found.reasons] == ["mean gold F1 of the tags"]
    assert found.tags[TAG_NAMES[1]] == (1, 0)
    assert found.inverse.before is None


def test_a_missing_answer_counts_as_no_tag():
    gold = made_set(40, pairs=0)
    silent = [ABSENT if i < 10 else bits for i, bits in enumerate(gold.sets)]
    empty = [0 if i < 10 else bits for i, bits in enumerate(gold.sets)]
    assert compare(gold, gold.sets, silent).micro_f1 == compare(gold, gold.sets, empty).micro_f1


def test_the_interval_of_a_pair_is_narrower_than_of_two():
    gold = made_set(300)
    before = noisy(gold.sets, 0.5, 1)
    after = [gold.sets[i] if i % 25 == 0 else bits for i, bits in enumerate(before)]
    found = compare(gold, before, after, Bootstrap(400))
    width = found.micro_f1.difference.high - found.micro_f1.difference.low
    against_nothing = compare(gold, [0] * 300, before, Bootstrap(400)).micro_f1.difference
    assert width < (against_nothing.high - against_nothing.low) / 2


@pytest.mark.slow
def test_the_gold_set_has_the_other_halves_of_inverse_pairs(tmp_path):
    made = stored(tmp_path / "s", world_records(80))
    assert invert(made, Rules()).made.total() > 5
    made = annotate(Store.open(made.uri), gold=careless(silent=0.8), quiet=lambda record: None)
    gold = gold_set(made, "gold")
    records = made.records(gold.rows)
    assert gold.gold_rows == sum(bits != ABSENT for bits in gold.sets) < len(gold.rows)
    assert len(gold.pairs) > 0
    for parent, child in gold.pairs:
        assert records[child].parent == records[parent].id
        assert gold.sets[parent] != ABSENT or gold.sets[child] != ABSENT
    assert gold.roots == tuple(record.root for record in records)
    some = gold_set(made, "gold", limit=5)
    assert some.gold_rows == 5
    assert set(some.rows) <= set(gold.rows)
    assert some == gold_set(made, "gold", limit=5)
    # tags of the store: those that an inverse has from its parent are no gold
    everything = gold_set(made, "tags")
    assert everything.gold_rows == 80
    assert sum(bits == ABSENT for bits in everything.sets) == len(everything.pairs)
    with pytest.raises(UsageError, match="'quiet' has tags of no row"):
        gold_set(made, "quiet")
    with pytest.raises(UsageError, match="no annotator 'nobody'"):
        gold_set(made, "nobody")


def test_tags_of_the_judged_are_no_gold(tmp_path):
    records = world_records(6)
    by = [
        replace(record, tag_provenance=TagProvenance("vlm" if i < 4 else "people")) for i, record in enumerate(records)
    ]
    made = stored(tmp_path / "s", by)
    assert gold_set(made, "tags", judged="vlm").rows == (4, 5)
    assert gold_set(made, "tags").gold_rows == 6
    with pytest.raises(UsageError, match=r"of no row .* but those that 'vlm' gave"):
        gold_set(stored(tmp_path / "own", by[:4]), "tags", judged="vlm")
