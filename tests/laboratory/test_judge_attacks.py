"""The judge accepts what a person calls right, and nothing of what a person calls wrong: a quick attack table."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from tagmoe.laboratory.judge_attacks import CLASSES, RESTORED, cases, drawn, visible
from tagmoe.world import judge


def table(count: int, seed: int) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = defaultdict(list)
    for attack in drawn(count, seed):
        found[attack.kind].append(judge(attack.case, attack.image).success)
    return found


def wrong_rows(found: dict[str, list[bool]], share: float) -> list[str]:
    """Kinds of which the judge accepts too many (wrong) or refuses too many (right)."""
    rows = []
    for kind, accepted in found.items():
        misses = {"wrong": sum(accepted), "right": len(accepted) - sum(accepted), "partial": 0}[CLASSES[kind]]
        if misses > share * len(accepted):
            rows.append(f"{kind}: {misses} of {len(accepted)}")
    return rows


def test_every_kind_is_classed_and_applies() -> None:
    found = table(8, 7)
    assert {*found} == {*CLASSES} - {RESTORED}
    assert len(CLASSES) >= 26
    # One case of 8 is the least that can be missed.
    assert wrong_rows(found, 0.13) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_at_most_two_percent_are_misjudged() -> None:
    assert wrong_rows(table(600, 31), 0.02) == []


def test_kinds_that_seldom_apply_get_further_cases_up_to_a_bound() -> None:
    first = Counter(attack.kind for attack in drawn(3, 7))
    assert min(first[kind] for kind in CLASSES if kind != RESTORED) == 0
    made = Counter(attack.kind for attack in drawn(3, 7, least=4, most=600))
    assert {kind: max(4, first[kind]) for kind in CLASSES if kind != RESTORED} == made
    numbers = [attack.case.index for attack in drawn(3, 7, least=4, most=5)]
    assert max(numbers) == 4


def test_what_nobody_sees_is_no_attack() -> None:
    (case,) = cases(1, 3)
    assert not visible(case.target, case.target)
    assert not visible(np.clip(case.target.astype(int) + 3, 0, 255).astype(np.uint8), case.target)
    assert visible(255 - case.target, case.target)
