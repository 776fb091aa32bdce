"""The order of a run: each row once a pass, weights kept, the same for any number of ranks, without history."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.apportioned import LARGEST_ERROR, counts

from tagmoe.data.order.sampler import Sampler, SourceRows, permutation, uniform, wording
from tagmoe.errors import DataError, UsageError

BUCKETS = ("64x64", "64x64 64x64", "64x32 64x64 32x32")


@st.composite
def mixes(draw: st.DrawFn) -> dict[str, SourceRows]:
    """One to four sources, each with rows in some buckets; a row number belongs to one source."""
    start = 0
    sources = {}
    for place in range(draw(st.integers(1, 4))):
        counts = draw(st.lists(st.integers(0, 40), min_size=3, max_size=3).filter(any))
        rows = {}
        for bucket, count in zip(BUCKETS, counts, strict=True):
            rows[bucket] = np.arange(start, start + count)
            start += count
        sources[f"s{place}"] = SourceRows(draw(st.floats(0.01, 10)), rows)
    return sources


SEEDS = st.integers(0, 2**62)


class Sequential:
    """The sampler as one would write it first: go through all batches from 0 and count."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.batches: Counter[str] = Counter()
        self.slots: Counter[str] = Counter()
        self.occurred: Counter[tuple[str, str]] = Counter()
        self.number = 0

    def next(self) -> tuple[str, list[int]]:
        bucket, before = self.sampler._buckets.locate(self.number)
        assert before == self.batches[bucket]
        rows = []
        for _ in range(self.sampler.batch):
            source, before = self.sampler._mixes[bucket].locate(self.slots[bucket])
            assert before == self.occurred[source, bucket]
            mine = self.sampler.sources[source].rows[bucket]
            order = permutation(len(mine), self.sampler.seed, source, bucket, before // len(mine))
            rows.append(int(mine[order[before % len(mine)]]))
            self.slots[bucket] += 1
            self.occurred[source, bucket] += 1
        self.batches[bucket] += 1
        self.number += 1
        return bucket, rows


@settings(max_examples=40, deadline=None)
@given(mixes(), SEEDS, st.integers(1, 9))
def test_it_equals_the_sequential_one(sources: dict[str, SourceRows], seed: int, batch: int) -> None:
    sampler = Sampler(sources, batch=batch, seed=seed)
    slow = Sequential(sampler)
    expected = [slow.next() for _ in range(25)]
    order = np.random.default_rng(seed).permutation(25)  # asked for in any order: there is no history
    for number in order.tolist():
        draw = sampler.draw(number)
        assert (draw.bucket, draw.rows.tolist()) == expected[number]
        assert all(row in sampler.sources[s].rows[draw.bucket] for s, row in zip(draw.sources, draw.rows, strict=True))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(mixes(), SEEDS)
def test_every_row_comes_once_a_pass(sources: dict[str, SourceRows], seed: int) -> None:
    sampler = Sampler(sources, batch=4, seed=seed)
    order: dict[tuple[str, str], list[int]] = {}
    for number in range(60):
        draw = sampler.draw(number)
        for source, row in zip(draw.sources, draw.rows.tolist(), strict=True):
            order.setdefault((source, draw.bucket), []).append(row)
    for (source, bucket), seen in order.items():
        rows = sources[source].rows[bucket].tolist()
        passes = [seen[start : start + len(rows)] for start in range(0, len(seen), len(rows))]
        assert all(sorted(one) == rows for one in passes[:-1])
        assert len(set(passes[-1])) == len(passes[-1])
    assert len(order) <= sum(len(rows) > 0 for source in sources.values() for rows in source.rows.values())


def test_passes_are_in_other_orders() -> None:
    sampler = Sampler({"a": SourceRows(1, {"x": np.arange(50)})}, batch=50, seed=3)
    assert len({tuple(sampler.draw(number).rows) for number in range(6)}) == 6
    other = Sampler({"a": SourceRows(1, {"x": np.arange(50)})}, batch=50, seed=4)
    assert tuple(other.draw(0).rows) != tuple(sampler.draw(0).rows)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(mixes(), SEEDS, st.integers(1, 64), st.integers(0, 2**30), st.integers(1, 2**30))
def test_weights_hold_in_every_window(
    sources: dict[str, SourceRows], seed: int, batch: int, start: int, length: int
) -> None:
    """Counted by the split trees, which the sequential test compares with drawing: so windows may be long."""
    sampler = Sampler(sources, batch=batch, seed=seed)
    total = math.fsum(source.weight for source in sources.values())
    first, last = counts(sampler._buckets, start), counts(sampler._buckets, start + length)
    had: Counter[str] = Counter()
    for bucket in first:
        mix = sampler._mixes[bucket]
        before, after = counts(mix, first[bucket] * batch), counts(mix, last[bucket] * batch)
        had.update({source: after[source] - before[source] for source in after})
    for name, source in sources.items():
        wanted = source.weight / total * length * batch
        # each bucket is off by less than 4 batches, and the source in it by less than 4 slots
        assert abs(had[name] - wanted) < LARGEST_ERROR * (batch + 1) * len(first)


@pytest.mark.slow
def test_weights_are_closer_than_sampling_error() -> None:
    sources = {
        "big": SourceRows(0.2, {"a": np.arange(900), "b": np.arange(900, 1000)}),
        "small": SourceRows(0.7, {"b": np.arange(1000, 1030)}),
        "rare": SourceRows(0.1, {"a": np.arange(1030, 1040), "c": np.arange(1040, 1043)}),
    }
    sampler = Sampler(sources, batch=16, seed=9)
    batches = 2000
    drawn = [sampler.draw(number) for number in range(batches)]
    for name, source in sources.items():
        had = sum(draw.sources.count(name) for draw in drawn)
        chance = math.sqrt(16) * math.sqrt(batches * 16 * source.weight * (1 - source.weight))
        assert abs(had - source.weight * batches * 16) < chance / 3
    # inside a source every row is equally likely, whatever its bucket
    rows = Counter(row for draw in drawn for row in draw.rows.tolist())
    for source in sources.values():
        counts = [rows[row] for mine in source.rows.values() for row in mine.tolist()]
        assert max(counts) < 1.1 * min(counts) + 2


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(mixes(), SEEDS, st.integers(0, 2**40), st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3))
def test_ranks_share_the_same_global_batches(
    sources: dict[str, SourceRows], seed: int, start: int, worlds: list[int]
) -> None:
    """At 1, 2 and 4 ranks, also when their number changes in the middle of a run."""
    for number, world in enumerate(worlds, start):
        whole = Sampler(sources, batch=8, seed=seed, dropout=0.3).draw(number)
        # ranks are processes of their own: none sees what another has drawn
        parts = [
            Sampler(sources, batch=8, seed=seed, dropout=0.3).draw(number, rank=rank, world_size=world)
            for rank in range(world)
        ]
        assert {part.bucket for part in parts} == {whole.bucket}
        assert sum((part.sources for part in parts), ()) == whole.sources
        for field in ("numbers", "rows", "blank", "choice"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            assert joined.tolist() == getattr(whole, field).tolist()


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    sampler = Sampler({"a": SourceRows(1, {"x": np.arange(3)})}, batch=6, seed=0)
    with pytest.raises(UsageError, match=r"global batch of 6 samples cannot be shared evenly by 4 ranks"):
        sampler.draw(0, rank=0, world_size=4)
    with pytest.raises(UsageError, match="no rank 2 of 2"):
        sampler.draw(0, rank=2, world_size=2)


def test_a_bucket_with_fewer_rows_than_a_batch_is_repeated() -> None:
    sampler = Sampler({"a": SourceRows(1, {"x": np.array([7, 9, 11])})}, batch=8, seed=0)
    seen = [row for number in range(3) for row in sampler.draw(number).rows.tolist()]
    assert Counter(seen) == {7: 8, 9: 8, 11: 8}


def test_sources_without_rows_or_weight() -> None:
    some, none = np.arange(4), np.arange(0)
    sources = {"a": SourceRows(1, {"x": some, "y": none}), "off": SourceRows(0, {"x": np.arange(4, 9)})}
    sampler = Sampler({**sources, "empty": SourceRows(0, {})}, batch=4, seed=0)
    assert sampler._buckets.shares == {"x": 1.0}
    assert {row for number in range(5) for row in sampler.draw(number).rows.tolist()} == {0, 1, 2, 3}
    assert len(sampler) == 4
    with pytest.raises(UsageError, match=r"'empty' has no rows for its weight 2"):
        Sampler({**sources, "empty": SourceRows(2, {"x": none})}, batch=4, seed=0)
    with pytest.raises(UsageError, match="no row to train on"):
        Sampler({"off": sources["off"].__class__(0, {"x": some})}, batch=4, seed=0)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"dropout": 1.0}, "dropped instructions is 1.0"),
        ({"weight": -1.0}, "weight of 'a' is -1.0"),
        ({"weight": math.nan}, "weight of 'a' is nan"),
        ({"weight": math.inf}, "weight of 'a' is inf"),
        ({"weight": 1e-300}, "weight of 'a' is 1e-300"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_: dict[str, float], message: str) -> None:
    weight = settings_.pop("weight", 1.0)
    given_ = {"batch": 4, "seed": 0, **settings_}
    with pytest.raises(UsageError, match=message):
        Sampler({"a": SourceRows(weight, {"x": np.arange(3)})}, **given_)  # type: ignore[arg-type]


def test_a_run_goes_on_where_it_was_and_only_in_its_own_order() -> None:
    sources = {"a": SourceRows(1, {"x": np.arange(9)}), "b": SourceRows(2, {"x": np.arange(9, 20)})}
    sampler = Sampler(sources, batch=4, seed=5, dropout=0.1, version=7)
    state = json.loads(json.dumps(sampler.state(123)))
    assert Sampler(sources, batch=4, seed=5, dropout=0.1, version=7).resume(state) == 123
    heavier = {**sources, "b": SourceRows(3, sources["b"].rows)}
    longer = {**sources, "b": SourceRows(2, {"x": np.arange(9, 21)})}
    elsewhere = {**sources, "b": SourceRows(2, {"y": np.arange(9, 20)})}
    others = {
        "seed": Sampler(sources, batch=4, seed=6, dropout=0.1, version=7),
        "version": Sampler(sources, batch=4, seed=5, dropout=0.1, version=8),
    }
    for changed in (heavier, longer, elsewhere):
        others[f"digest{len(others)}"] = Sampler(changed, batch=4, seed=5, dropout=0.1, version=7)
    others["digest batch"] = Sampler(sources, batch=8, seed=5, dropout=0.1, version=7)
    others["digest dropout"] = Sampler(sources, batch=4, seed=5, dropout=0.2, version=7)
    for what, other in others.items():
        with pytest.raises(DataError, match=rf"another order \({what.rstrip('0123456789').split()[0]}"):
            other.resume(state)


@pytest.mark.slow
def test_dropout_and_wordings_are_hashes_of_the_sample_number() -> None:
    numbers = np.arange(200_000)
    values = uniform(3, "dropout", numbers)
    assert ((values >= 0) & (values < 1)).all()
    # shares of ten bins, neighbours and the two purposes: all within five standard errors of independence
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 20_000).max() < 5 * math.sqrt(200_000 * 0.09)
    centred = values - 0.5
    assert abs((centred[1:] * centred[:-1]).mean()) < 5 / 12 / math.sqrt(200_000)
    assert abs((centred * (uniform(3, "wording", numbers) - 0.5)).mean()) < 5 / 12 / math.sqrt(200_000)
    assert abs((centred * (uniform(4, "dropout", numbers) - 0.5)).mean()) < 5 / 12 / math.sqrt(200_000)
    sampler = Sampler({"a": SourceRows(1, {"x": np.arange(3)})}, batch=1000, seed=3, dropout=0.1)
    dropped = np.concatenate([sampler.draw(number).blank for number in range(20)])
    assert abs(dropped.mean() - 0.1) < 5 * math.sqrt(0.09 / 20_000)
    assert dropped.tolist() == (values[:20_000] < 0.1).tolist()


def test_wordings_come_in_their_shares() -> None:
    choices = uniform(0, "wording", np.arange(20_000)).tolist()
    found = Counter(wording(choice, "raw", ("b", "c"), "rewritten", share=0.4) for choice in choices)
    for text, share in {"rewritten": 0.4, "raw": 0.2, "b": 0.2, "c": 0.2}.items():
        assert abs(found[text] / 20_000 - share) < 0.02
    assert {wording(choice, "raw", share=0.4) for choice in choices} == {"raw"}
    assert {wording(choice, "raw", (), "new", share=1.0) for choice in choices} == {"new"}
    assert {wording(choice, "raw", (), "new") for choice in choices} == {"raw"}


PROCESS = """
import numpy as np
from tagmoe.data.order.sampler import Sampler, SourceRows
rows = {"x": np.arange(50), "y": np.arange(50, 60)}
sources = {"b": SourceRows(2, rows), "a": SourceRows(1, rows)}
sampler = Sampler(sources, batch=6, seed=11, dropout=0.5)
for d in map(sampler.draw, range(20)):
    print(d.bucket, d.sources, d.rows.tolist(), d.blank.tolist(), d.choice.tolist())
print(sampler.digest)
"""


@pytest.mark.slow
def test_processes_with_other_hash_seeds_agree() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROCESS], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert "True" in outputs.pop()


RARE = {
    "a": SourceRows(1, {"x": np.arange(3), "y": np.arange(3, 103)}),
    "b": SourceRows(1, {"x": np.arange(103, 105), "z": np.arange(105, 106), "y": np.arange(106, 199)}),
}


@pytest.mark.slow
def test_a_rare_bucket_has_each_row_once_in_a_batch_which_counts_less() -> None:
    sampler = Sampler(RARE, batch=8, seed=4, rare="weight")
    assert sampler.rare_rows == {"x": 5, "z": 1}
    assert sampler.digest != Sampler(RARE, batch=8, seed=4).digest
    drawn = [sampler.draw(number) for number in range(2000)]
    for draw in drawn:
        assert len(draw.rows) == {"x": 5, "y": 8, "z": 1}[draw.bucket]
        assert draw.bucket == "y" or len({*draw.rows.tolist()}) == len(draw.rows)
        assert draw.share == len(draw.rows) / 8
        assert all(row in RARE[s].rows[draw.bucket] for s, row in zip(draw.sources, draw.rows, strict=True))
    rows = Counter(row for draw in drawn for row in draw.rows.tolist())
    assert len(rows) == 199
    assert max(rows.values()) < 1.2 * min(rows.values())  # weights by rows: every row is seen alike
    for number in (draw for draw in range(200) if drawn[draw].bucket != "y"):
        parts = [sampler.draw(number, rank=rank, world_size=4) for rank in range(4)]
        assert sum(part.share for part in parts) == pytest.approx(4 * drawn[number].share)
        assert [r for part in parts if part.share for r in part.rows] == drawn[number].rows.tolist()
        assert all(len(part.rows) for part in parts)


def test_rare_buckets_can_be_left_out() -> None:
    sampler = Sampler(RARE, batch=8, seed=4, rare="skip")
    assert {sampler.draw(number).bucket for number in range(300)} == {"y"}
    assert len(sampler) == 193
    with pytest.raises(UsageError, match="Every bucket has fewer rows than a batch of 500"):
        Sampler(RARE, batch=500, seed=4, rare="skip")


def test_without_rare_buckets_the_order_is_the_same_under_every_policy() -> None:
    sources = {"a": SourceRows(1, {"x": np.arange(50)})}
    digests = {Sampler(sources, batch=8, seed=1, rare=rare).digest for rare in ("repeat", "weight", "skip")}
    assert len(digests) == 1
