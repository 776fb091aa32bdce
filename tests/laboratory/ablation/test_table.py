"""The table: what it says follows from the results, and nothing missing is averaged over."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from tagmoe.errors import UsageError
from tagmoe.intervals import Interval
from tagmoe.laboratory.ablation.collection import Collection, read_collection
from tagmoe.laboratory.ablation.paired import Estimate
from tagmoe.laboratory.ablation.results import FlowByTimestep, Result, Verdicts
from tagmoe.laboratory.ablation.table import (
    COLUMNS,
    FLOW,
    PAPER_ARMS,
    PAPER_METRICS,
    PAPER_STEPS,
    PAPER_TABLE,
    ROLES,
    SUBSETS,
    SUCCESS,
    Claim,
    Column,
    last,
    phrase,
    summarise,
)

Make = Callable[..., Result]
DRAWS = 500


@pytest.fixture
def collection(arms_folder: Path) -> Collection:
    return read_collection(arms_folder)


def with_success(make: Make, arm: str, seed: int, success: Any, **changes: Any) -> Result:
    result = make(arm, seed, per_task=2)
    return result.model_copy(
        update={"verdicts": result.verdicts.model_copy(update={"success": tuple(success)})} | changes
    )


def of(*results: Result) -> Collection:
    arms: dict[str, dict[int, Result]] = {}
    for result in results:
        arms.setdefault(result.arm, {})[result.seed] = result
    return Collection(arms)


@pytest.mark.slow
def test_means_and_differences_are_those_of_the_verdicts(collection: Collection) -> None:
    summary = summarise(collection, "moe", draws=DRAWS)
    row = summary.row("align")
    assert row is not None
    one, two = (
        np.array([r.verdicts.success for r in collection.arms[a].values()], dtype=float) for a in ("align", "moe")
    )
    mean, difference = row.means["success"], row.differences["success"]
    assert mean is not None
    assert difference is not None
    assert mean.value == pytest.approx(one.mean())
    assert difference.value == pytest.approx((one - two).mean())
    assert difference.by_seed == pytest.approx((one - two).mean(axis=1))
    held = np.array(collection.cases.held_out_paraphrase)
    for name, flags in (("held-out phrasing", held), ("seen phrasing", ~held)):
        part = row.differences[name]
        assert part is not None
        assert part.value == pytest.approx((one - two)[:, flags].mean())
        assert part.cases == flags.sum()
    tasks = np.array(collection.cases.tasks)
    assert list(row.tasks) == list(dict.fromkeys(collection.cases.tasks))
    swap = row.tasks["swap"]
    assert swap is not None
    assert swap.value == pytest.approx((one - two)[:, tasks == "swap"].mean())
    subject = [v for v in collection.arms["align"][0].verdicts.subject if v is not None]
    assert row.means["subject"] is not None
    assert row.means["subject"].by_seed[0] == pytest.approx(fmean(subject))
    assert row.means["subject"].cases == len(subject) < len(tasks)


@pytest.mark.slow
def test_subsets_split_the_cases_in_two(collection: Collection) -> None:
    row = summarise(collection, "moe", draws=DRAWS).rows[0]
    counts = [estimate.cases for name in SUBSETS if (estimate := row.means[name])]
    assert counts[0] + counts[1] == counts[2] + counts[3] == len(collection.cases.tasks)


def test_an_arm_with_fewer_seeds_is_compared_over_the_common_ones(arms_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(arms_folder, tmp_path / "arms"))
    shutil.rmtree(folder / "align" / "seed-1")
    shutil.rmtree(folder / "align-frozen" / "seed-0")
    shutil.rmtree(folder / "moe" / "seed-0")
    found = read_collection(folder, known=[*SKILLS, "top-2"])
    summary = summarise(found, "moe", draws=DRAWS)
    rows = {row.arm: row for row in summary.rows}
    assert rows["align"].missing_seeds == (1,)
    assert rows["align"].means["success"].seeds == (0, 2)  # type: ignore[union-attr]
    assert rows["align"].differences["success"].seeds == (2,)  # type: ignore[union-attr]
    assert rows["align"].differences["success"].over_seeds is None  # type: ignore[union-attr]
    assert rows["align-frozen"].differences["success"].seeds == (1, 2)  # type: ignore[union-attr]
    assert found.missing == ("top-2",)
    assert "top-2" not in rows
    step = next(c for c in summary.claims if (c.first, c.second, c.column.name) == ("align", "moe", "success"))
    assert step.estimate == rows["align"].differences["success"]


SKILLS = ("dense", "moe", "align", "align-frozen", "align-shuffled")


def test_arms_without_a_common_seed_have_no_difference(make_result: Make) -> None:
    summary = summarise(of(make_result("moe", 0), make_result("align", 1)), "moe", draws=DRAWS)
    assert summary.row("align").differences["success"] is None  # type: ignore[union-attr]
    assert summary.spreads == {}
    assert {claim.outcome for claim in summary.claims} == {"missing"}
    assert summary.comparisons == 0


@pytest.mark.slow
def test_the_baseline_must_be_there(collection: Collection) -> None:
    with pytest.raises(UsageError, match=r"'top-2'.*align"):
        summarise(collection, "top-2")
    row = summarise(collection, "dense", draws=DRAWS).row("dense")
    assert row is not None
    assert row.differences == {}


@pytest.mark.slow
def test_quantities_that_an_arm_lacks_are_none(collection: Collection) -> None:
    summary = summarise(collection, "moe", draws=DRAWS)
    dense = summary.row("dense")
    assert dense is not None
    for name in ("mutual information", "L_align", "rank of W_tag"):
        assert dense.means[name] is None
        assert dense.differences[name] is None
    shown = {row.arm: row.means["tags right"] for row in summary.rows}
    assert shown["moe"] is None
    assert shown["align"] is not None
    assert summary.columns == COLUMNS
    only = summarise(of(*collection.arms["dense"].values()), "dense", draws=DRAWS)
    assert "mutual information" not in [column.name for column in only.columns]


@pytest.mark.slow
def test_all_comparisons_are_counted(collection: Collection) -> None:
    summary = summarise(collection, "moe", draws=DRAWS)
    assert summary.comparisons == sum(e is not None for row in summary.rows for e in row.differences.values())
    raw = {row.arm: row.differences["success"].p for row in summary.rows if row.differences}  # type: ignore[union-attr]
    adjusted = {row.arm: row.p_success for row in summary.rows if row.differences}
    assert all(adjusted[arm] >= p for arm, p in raw.items())  # type: ignore[operator]
    smallest = min(raw, key=lambda arm: raw[arm] or 1.0)
    assert adjusted[smallest] == pytest.approx(min(1.0, 4 * raw[smallest]))  # type: ignore[operator]
    assert summary.row("moe").p_success is None  # type: ignore[union-attr]


@pytest.mark.parametrize(("better", "outcome"), [("align", "held"), ("moe", "opposite"), ("", "not resolved")])
def test_outcomes_follow_from_the_verdicts(make_result: Make, better: str, outcome: str) -> None:
    """The better arm succeeds in 12 cases more of 50, at every seed; which ones is the luck of the seed."""
    results = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        base = rng.random(50) < 0.5
        gained = base.copy()
        gained[rng.permutation(np.flatnonzero(~base))[:12]] = True
        for arm in ("moe", "align"):
            results.append(with_success(make_result, arm, seed, gained.tolist() if arm == better else base.tolist()))
    summary = summarise(of(*results), "moe", draws=DRAWS)
    claim = next(c for c in summary.claims if (c.first, c.second, c.column) == ("align", "moe", SUCCESS))
    assert claim.outcome == outcome
    assert phrase(claim.estimate, SUCCESS).startswith("not resolved" if not better else "resolved: ")


def test_less_loss_is_better(make_result: Make) -> None:
    def with_loss(arm: str, seed: int, loss: float) -> Result:
        flow = FlowByTimestep(timesteps=(0.5,), loss=(loss + 0.001 * seed,), samples=8)
        return make_result(arm, seed, per_task=2, flow=flow)

    for moe, outcome in ((0.1, "held"), (0.3, "opposite")):
        results = [with_loss("dense", s, 0.2 + 0.0001 * s * s) for s in range(3)]
        results += [with_loss("moe", s, moe) for s in range(3)]
        summary = summarise(of(*results), "dense", draws=DRAWS)
        assert next(c for c in summary.claims if c.column == FLOW and c.first == "moe").outcome == outcome


def test_a_claim_among_many_is_resolved_only_after_holm(make_result: Make) -> None:
    """A difference that is resolved alone, and is one of many claims, holds for these seeds at most."""
    estimate = Estimate(0.1, (0, 1), (0.1, 0.1), 50, Interval(50, 0.1, 0.05, 0.15), Interval(2, 0.1, 0.01, 0.2), 0.03)
    claim = Claim("Table 4", "moe", "dense", SUCCESS, estimate, p_adjusted=0.6)
    assert estimate.verdict == "resolved"
    assert claim.outcome == "held for these seeds"
    assert claim.finding.startswith("resolved for these seeds: ")
    assert claim.finding.endswith("; p = 0.03, after Holm 0.6")
    assert replace(claim, p_adjusted=0.04).outcome == "held"
    once = replace(claim, estimate=replace(estimate, over_cases=None))
    assert once.outcome == "not resolved"


def test_arms_that_differ_are_left_out_of_the_second_f_test(make_result: Make) -> None:
    rng = np.random.default_rng(5)
    results = []
    for seed in range(3):
        drawn = rng.random(50) < 0.5
        for arm in ("moe", "dense", "align"):
            verdicts = (drawn ^ (rng.random(50) < 0.05)) & (arm != "align")
            results.append(with_success(make_result, arm, seed, verdicts.tolist()))
    summary = summarise(of(*results), "moe", draws=DRAWS)
    assert summary.all_arms is not None
    assert summary.like_arms is not None
    assert (summary.all_arms.arms, summary.like_arms.arms) == (3, 2)
    assert summary.all_arms.p < 0.001 < summary.like_arms.p
    assert summary.detectable is not None


def test_words_follow_from_the_numbers() -> None:
    over_cases, over_seeds = Interval(400, 0.031, 0.012, 0.05), Interval(3, 0.031, -0.002, 0.064)
    found = Estimate(0.031, (0, 1, 2), (0.03, 0.01, 0.053), 400, over_cases, over_seeds)
    assert phrase(found, SUCCESS) == (
        "resolved for these seeds: +3.1 points [1.2, 5.0] over 400 cases, [-0.2, 6.4] over seeds and cases; "
        "3 of 3 seeds agree"
    )
    once = Estimate(-0.00002, (0,), (-0.00002,), 0)
    assert phrase(once, FLOW) == "not resolved: -0.00002; 1 of 1 seed agrees"
    assert phrase(None, FLOW) == "missing"
    assert Column("x").format_change(-0.0001) == "0.0"
    below = Estimate(-0.1, (0,), (-0.1,), 40, Interval(40, -0.1, -0.2, -0.05))
    opposite = Claim("Table 4", "moe", "dense", SUCCESS, below)
    assert opposite.direction == opposite.outcome == "opposite for these seeds"
    assert opposite.text == "MoE w/o L_align has higher success than Dense"


def test_the_papers_table_has_the_directions_it_is_quoted_for() -> None:
    """Every metric rises in both steps, so that `better` is the paper's sign in each claim of Table 4."""
    assert list(PAPER_TABLE) == list(PAPER_ARMS)
    assert tuple(ROLES) == PAPER_METRICS
    for first, second in PAPER_STEPS:
        assert all(a > b for a, b in zip(PAPER_TABLE[first], PAPER_TABLE[second], strict=True))


def test_the_end_of_training_is_a_mean_of_its_last_tenth(make_result: Make) -> None:
    training = tuple({"step": float(i), "flow": float(i)} for i in range(40))
    result = make_result("moe", 0, training=training)
    assert last(result, "flow") == fmean([36, 37, 38, 39])
    assert last(result, "alignment") is None


def test_a_loss_that_was_not_asked_for_is_not_shown_as_zero(make_result: Make) -> None:
    def result(weight: float) -> Result:
        training = tuple({"step": float(i), "flow": 0.1, "alignment": 0.5 * bool(weight)} for i in range(20))
        return make_result("moe", 0, training=training, settings={"loss": {"lambda_align": weight}})

    assert last(result(0.1), "alignment") == 0.5
    assert last(result(0), "alignment") is None
    assert last(result(0), "flow") == pytest.approx(0.1)


def test_a_result_may_have_quantities_that_no_case_asks_for(make_result: Make) -> None:
    results = []
    for arm in ("moe", "align"):
        result = make_result(arm, 0, per_task=1)
        nothing = (None,) * len(result.cases.tasks)
        verdicts = Verdicts(
            success=result.verdicts.success, unchanged=nothing, subject=nothing, face=nothing, style=nothing
        )
        results.append(result.model_copy(update={"verdicts": verdicts}))
    row = summarise(of(*results), "moe", draws=DRAWS).row("align")
    assert row is not None
    assert row.means["face"] is None
    assert row.differences["face"] is None
    assert not math.isnan(row.means["success"].value)  # type: ignore[union-attr]
