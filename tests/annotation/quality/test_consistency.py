"""Tags against native tasks, rules and inverses: counted by hand, and error rates found again."""

from __future__ import annotations

import numpy as np
import pytest

from tagmoe.annotation.quality import consistency
from tagmoe.annotation.quality.agreement import as_bits
from tagmoe.annotation.quality.consistency import (
    OTHER_TASKS,
    FaultCounts,
    InverseTally,
    TaskTags,
    broken_rules,
    descriptor_of,
)
from tagmoe.intervals import Bootstrap
from tagmoe.tags import TAG_NAMES, index


def bits(*names: str) -> int:
    return as_bits(index(name) for name in names)


ADD = bits("local editing", "object editing", "background preservation")


def test_tags_are_counted_by_task():
    tally = TaskTags()
    tally.add("made", "addition", ADD)
    tally.add("made", "addition", bits("local editing", "attribute editing"))
    tally.add("made", "style", bits("global editing", "style transfer"))
    rows = list(tally.shares())
    assert [row[:3] for row in rows] == [("made", "addition", 2), ("made", "style", 1)]
    assert rows[0][3][index("object editing")] == 0.5
    assert rows[0][3][index("local editing")] == 1
    assert rows[1][3].sum() == 2


def test_many_names_of_tasks_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(consistency, "MAX_TASKS", 3)
    tally = TaskTags()
    for number in range(20):
        tally.add("made", f"task {number}", ADD)
    assert len(tally.rows) == 4
    assert tally.rows["", OTHER_TASKS] == 17


def test_rules_are_those_of_the_vocabulary():
    wrong = bits("local editing", "background editing", "background preservation")
    assert broken_rules(wrong) == tuple(rule.name for rule in descriptor_of(wrong).broken_rules()) == ("background",)
    assert broken_rules(ADD) == ()
    assert broken_rules(0) == ("one scope", "a type")
    counts = FaultCounts()
    for tags in (ADD, wrong, 0):
        counts.add(broken_rules(tags))
    assert (counts.rows, counts.faulty) == (3, 2)
    assert counts.by_name == {"background": 1, "one scope": 1, "a type": 1}


def test_an_inverse_must_have_the_scope_and_type_of_its_parent():
    tally = InverseTally()
    tally.child("p0", bits("local editing", "object editing"), 10)
    tally.child("p1", bits("local editing", "attribute editing"), 11)
    tally.child("unknown", ADD, 12)
    for row, name in enumerate(["p0", "x", "p1", "y"]):
        tally.parent(name, f"root {row}", ADD, row)
    found = tally.result(Bootstrap())
    assert (found.pairs, found.alone, found.consistent.value) == (2, 1, 0.5)
    # what is preserved may differ
    assert [tuple(item) for item in found.examples] == [(2, 11, ("object editing", "attribute editing"))]
    differing = {tag.tag: tag.differing.value for tag in found.tags}
    assert differing.pop("object editing") == differing.pop("attribute editing") == 0.5
    assert set(differing.values()) == {0}
    assert "background preservation" not in differing


def test_the_rate_of_errors_is_found_without_a_gold_side():
    random = np.random.default_rng(0)
    truth, rate = bits("local editing", "object editing"), 0.1
    flip = 1 << index("pose editing")
    tally = InverseTally()
    wrong = random.random((2, 4000)) < rate
    for number in range(4000):
        tally.child(f"p{number}", truth ^ (flip if wrong[1, number] else 0), 0)
    for number in range(4000):
        tally.parent(f"p{number}", f"r{number // 2}", truth ^ (flip if wrong[0, number] else 0), 0)
    found = {tag.tag: tag for tag in tally.result(Bootstrap()).tags}["pose editing"]
    assert found.error.value == pytest.approx(rate, abs=0.015)
    assert found.error.low < rate < found.error.high
    assert found.differing.value == pytest.approx(2 * rate * (1 - rate), abs=0.02)


def test_without_inverses_nothing_is_claimed():
    tally = InverseTally()
    tally.parent("a", "r", ADD, 0)
    found = tally.result(Bootstrap())
    assert (found.pairs, found.alone, found.consistent.value, found.examples) == (0, 0, None, ())
    assert all(tag.error.value is None for tag in found.tags)


def test_descriptors_of_all_tags():
    assert descriptor_of(as_bits(range(18))).tags == TAG_NAMES
