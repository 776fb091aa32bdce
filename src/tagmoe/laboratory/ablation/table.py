"""The ablation table (paper, Table 4): every arm's means, its paired differences to a baseline, and what held.

Every statement of a report is computed here from intervals. No sentence about an outcome is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.intervals import LEVEL, Bootstrap, FTest, Interval, detectable_difference, f_test
from tagmoe.laboratory.ablation.collection import QUANTITIES, Collection
from tagmoe.laboratory.ablation.paired import (
    Estimate,
    Spread,
    Verdict,
    estimate,
    holm,
    seed_estimate,
    spread,
)
from tagmoe.laboratory.ablation.results import Result
from tagmoe.sentences import counted

Outcome = Literal["held", "held for these seeds", "not resolved", "opposite for these seeds", "opposite", "missing"]
MINUS = "-"

PAPER_ARMS = {"dense": "Dense", "moe": "MoE w/o L_align", "align": "MoE w/ L_align"}
PAPER_STEPS = (("moe", "dense"), ("align", "moe"), ("align", "dense"))
"""Pairs of Table 4, with the paper's better arm first: the mixture, then L_align, then both steps at once."""
PAPER_METRICS = ("DINO-ref", "Face-ref", "Style-ref", "CLIP-src", "CLIP-cap", "vllmq")
PAPER_TABLE = {
    "dense": (0.7196, 0.3544, 0.5177, 0.851, 0.263, 0.637),
    "moe": (0.7355, 0.3779, 0.5251, 0.863, 0.274, 0.677),
    "align": (0.7620, 0.4642, 0.5679, 0.879, 0.281, 0.847),
}
CONTROLS = (("align-frozen", "align-shuffled"), ("align-frozen", "align-other-task"))
"""Our control: if the meaning of tags helps, right tags are better than wrong ones under the same loss. [ours]"""
ROLES = {
    "DINO-ref": "subject",
    "Face-ref": "face",
    "Style-ref": "style",
    "CLIP-src": "unchanged",
    "CLIP-cap": "success",
    "vllmq": "success",
}
"""The oracle's verdict that takes the place of each metric (paper 4.2)."""


@dataclass(frozen=True)
class Column:
    """A quantity of the table. unit: a point is 0.01 of a share. better: 1 if larger values are better, else -1."""

    name: str
    unit: Literal["points", "loss", "nats", "cosine", "rank"] = "points"
    better: Literal[1, -1] = 1

    def format(self, value: float) -> str:
        """A value of an arm: 0.912 as 91.2, a loss with five digits."""
        digits = {"points": 1, "loss": 5, "nats": 3, "cosine": 3, "rank": 1}[self.unit]
        return f"{100 * value if self.unit == 'points' else value:.{digits}f}"

    def format_change(self, value: float) -> str:
        """A difference, with its sign."""
        text = self.format(abs(value))
        return text if not float(text) else ("+" if value > 0 else MINUS) + text


SUBSETS = ("seen phrasing", "held-out phrasing", "seen combination", "held-out combination")
FLOW = Column("flow loss", "loss", -1)
INFORMATION = Column("mutual information", "nats")
TAGS = Column("tags right")
ALIGNMENT = Column("L_align", "cosine", -1)
RANK = Column("rank of W_tag", "rank")
LOGGED = {ALIGNMENT.name: "alignment", RANK.name: "tags/effective_rank"}
"""Columns whose values are the last ones that training logged, and their names in the log."""
SUCCESS = Column("success")
COLUMNS = (
    *(Column(name) for name in QUANTITIES),
    *(Column(name) for name in SUBSETS),
    FLOW,
    INFORMATION,
    TAGS,
    ALIGNMENT,
    RANK,
)


@dataclass(frozen=True)
class Row:
    """One arm: means over its seeds, and differences to the baseline over the seeds that both have (None without any).

    p_success: p-value of no difference in success, adjusted by Holm over all arms. tasks: differences by task.
    """

    arm: str
    about: str
    seeds: tuple[int, ...]
    missing_seeds: tuple[int, ...]
    means: dict[str, Estimate | None]
    differences: dict[str, Estimate | None]
    tasks: dict[str, Estimate | None]
    parameters: dict[str, int]
    seconds: dict[str, float]
    p_success: float | None = None


@dataclass(frozen=True)
class Claim:
    """The claim that `first` is better than `second` in `column`, and what was measured.

    source: the place in the paper, or that it is our control. metrics: those of Table 4 that the column stands for.
    p_adjusted: the p-value of no difference after Holm over all claims of a page, for new seeds and cases.
    """

    source: str
    first: str
    second: str
    column: Column
    estimate: Estimate | None
    metrics: tuple[str, ...] = ()
    p_adjusted: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the sign is resolved among so many claims: among twenty that are nothing, one looks so alone."""
        if self.estimate is None or self.estimate.verdict != "resolved":
            return "not resolved" if self.estimate is None else self.estimate.verdict
        if self.p_adjusted is not None and self.p_adjusted <= 1 - LEVEL:
            return "resolved"
        return "not resolved" if self.estimate.over_cases is None else "resolved for these seeds"

    @property
    def outcome(self) -> Outcome:
        """Whether the sign that was found here is the one of the claim."""
        if self.estimate is None:
            return "missing"
        if self.verdict == "not resolved":
            return "not resolved"
        same = self.estimate.value * self.column.better > 0
        if self.verdict == "resolved":
            return "held" if same else "opposite"
        return "held for these seeds" if same else "opposite for these seeds"

    @property
    def direction(self) -> str:
        """The outcome in the words used for a step of Table 4."""
        return self.outcome.replace("held for", "same direction for").replace("held", "same direction")

    @property
    def text(self) -> str:
        """The claim in words."""
        degree = "higher" if self.column.better > 0 else "lower"
        first, second = (PAPER_ARMS.get(arm, arm) for arm in (self.first, self.second))
        return f"{first} has {degree} {self.column.name} than {second}"

    @property
    def finding(self) -> str:
        """What was measured, in one line, with its p-value alone and among all claims."""
        words = phrase(self.estimate, self.column, self.verdict)
        if self.estimate is None or self.estimate.p is None or self.p_adjusted is None:
            return words
        return f"{words}; p = {self.estimate.p:.2g}, after Holm {self.p_adjusted:.2g}"


@dataclass(frozen=True)
class Summary:
    """Everything that a page shows. columns: those of any arm. comparisons: differences shown, without the tasks'.

    all_arms, like_arms: F tests of no difference in success between all arms, and between those whose difference to the
    baseline is not resolved. detectable: the difference in success that so many seeds show (`detectable_difference`).
    """

    collection: Collection
    baseline: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    spreads: dict[str, Spread]
    comparisons: int
    draws: int
    columns: tuple[Column, ...]
    all_arms: FTest | None = None
    like_arms: FTest | None = None
    detectable: float | None = None

    def row(self, arm: str) -> Row | None:
        """The row of an arm, None where it has no results."""
        return next((row for row in self.rows if row.arm == arm), None)


def summarise(collection: Collection, baseline: str, *, draws: int = 10_000) -> Summary:
    """Means, paired differences to `baseline` and the paper's claims. Raises UsageError when it has no results."""
    if baseline not in collection.arms:
        there = ", ".join(collection.arms)
        raise UsageError(f"There is no result of the baseline {baseline!r}; choose one of {there} with --baseline.")
    # Only a few numbers of cases occur, so the resamples of each are kept.
    bootstrap = Bootstrap(draws, keep=64)
    order = sorted(
        collection.arms, key=lambda arm: list(PAPER_ARMS).index(arm) if arm in PAPER_ARMS else len(PAPER_ARMS)
    )
    rows = [_row(collection, arm, baseline, bootstrap) for arm in order]
    others = [row for row in rows if row.differences.get("success") is not None]
    p_values = {row.arm: p for row in others if (p := row.differences["success"].p) is not None}  # type: ignore[union-attr]
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    by_arm = {row.arm: row.means["success"].by_seed for row in rows if row.means["success"] and not row.missing_seeds}
    apart = {row.arm for row in others if row.differences["success"].verdict == "resolved"}  # type: ignore[union-attr]
    return Summary(
        collection=collection,
        baseline=baseline,
        rows=tuple(replace(row, p_success=adjusted.get(row.arm)) for row in rows),
        claims=_among_all(list(_claims(collection, bootstrap))),
        spreads={arm: _spread(collection, arm, baseline) for arm in order if arm in {row.arm for row in others}},
        comparisons=sum(estimate is not None for row in rows for estimate in row.differences.values()),
        draws=draws,
        columns=tuple(column for column in COLUMNS if any(row.means[column.name] for row in rows)),
        all_arms=f_test(list(by_arm.values())),
        like_arms=f_test([values for arm, values in by_arm.items() if arm not in apart]),
        detectable=detectable_difference([row.differences["success"].by_seed for row in others]),  # type: ignore[union-attr]
    )


def compare(
    collection: Collection,
    first: str,
    second: str,
    column: Column,
    bootstrap: Bootstrap,
    *,
    task: str | None = None,
) -> Estimate | None:
    """First minus second over the seeds that both have. None without such seeds, or when an arm lacks the quantity."""
    if first not in collection.arms or second not in collection.arms:
        return None
    seeds = collection.common_seeds(first, second)
    one, two = (_values(collection, arm, column, seeds, task) for arm in (first, second))
    return None if one is None or two is None else _estimate(one - two, seeds, bootstrap)


def phrase(estimate: Estimate | None, column: Column, verdict: Verdict | None = None) -> str:
    """A difference with its verdict and intervals, in one line: "resolved: +3.1 points [1.2, 5.0], ...".

    verdict: by default that of the estimate alone.
    """
    if estimate is None:
        return "missing"
    unit = f" {column.unit}" if column.unit in ("points", "nats") else ""
    text = f"{verdict or estimate.verdict}: {column.format_change(estimate.value)}{unit}"
    if estimate.over_cases is not None:
        text += f" {interval(estimate.over_cases, column)} over {counted(estimate.cases, 'case')}"
    if estimate.over_seeds is not None:
        text += f"{',' if estimate.over_cases else ''} {interval(estimate.over_seeds, column)} over seeds"
        text += " and cases" if estimate.cases else ""
    agree = "agrees" if len(estimate.seeds) == 1 else "agree"
    return f"{text}; {estimate.agreeing} of {counted(estimate.seeds, 'seed')} {agree}"


def interval(found: Interval[float], column: Column) -> str:
    """The bounds as text, "[1.2, 5.0]"."""
    return "[" + ", ".join(column.format_change(bound).removeprefix("+") for bound in found.bounds) + "]"


def logged(result: Result, name: str) -> tuple[list[float], list[float]]:
    """The steps and values of a logged term. Empty when it was not logged, or L_align was not in the loss."""
    if name == LOGGED[ALIGNMENT.name] and result.settings.get("loss", {}).get("lambda_align") == 0:
        return [], []
    points = [(record["step"], record[name]) for record in result.training if name in record]
    return [step for step, _ in points], [value for _, value in points]


def last(result: Result, name: str) -> float | None:
    """A logged term averaged over the last tenth of its steps. None when it was not logged."""
    _, values = logged(result, name)
    return fmean(values[-max(1, len(values) // 10) :]) if values else None


def _row(collection: Collection, arm: str, baseline: str, bootstrap: Bootstrap) -> Row:
    runs = collection.arms[arm]
    seeds = tuple(runs)
    means = {}
    for column in COLUMNS:
        values = _values(collection, arm, column, seeds, None)
        means[column.name] = None if values is None else _estimate(values, seeds, bootstrap)
    differences: dict[str, Estimate | None] = {}
    tasks: dict[str, Estimate | None] = {}
    if arm != baseline:
        differences = {c.name: compare(collection, arm, baseline, c, bootstrap) for c in COLUMNS}
        tasks = {
            task: compare(collection, arm, baseline, SUCCESS, bootstrap, task=task)
            for task in dict.fromkeys(collection.cases.tasks)
        }
    first = runs[seeds[0]]
    return Row(
        arm=arm,
        about=first.about,
        seeds=seeds,
        missing_seeds=collection.missing_seeds(arm),
        means=means,
        differences=differences,
        tasks=tasks,
        parameters=first.parameters,
        seconds={
            name: fmean(run.seconds[name] for run in runs.values() if name in run.seconds)
            for name in dict.fromkeys(name for run in runs.values() for name in run.seconds)
        },
    )


def _claims(collection: Collection, bootstrap: Bootstrap) -> Iterator[Claim]:
    """Table 4 in both its steps and as a whole, the loss of Fig. 6 (left), the routing of 4.5, and our controls."""

    def claim(source: str, first: str, second: str, column: Column, metrics: tuple[str, ...] = ()) -> Claim:
        return Claim(source, first, second, column, compare(collection, first, second, column, bootstrap), metrics)

    for first, second in PAPER_STEPS:
        for name in dict.fromkeys(("success", *ROLES.values())):
            metrics = tuple(metric for metric, role in ROLES.items() if role == name)
            yield claim("Table 4", first, second, Column(name), metrics)
    for first in ("moe", "align"):
        yield claim("Fig. 6, left", first, "dense", FLOW)
    yield claim("section 4.5", "align", "moe", INFORMATION)
    for first, second in CONTROLS:
        yield claim("our control", first, second, SUCCESS)
        yield claim("our control", first, second, INFORMATION)


def _among_all(claims: list[Claim]) -> tuple[Claim, ...]:
    """The claims with their p-values after Holm over all of them."""
    tested = {place: claim.estimate.p for place, claim in enumerate(claims) if claim.estimate and claim.estimate.p}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(replace(claim, p_adjusted=adjusted.get(place)) for place, claim in enumerate(claims))


def _spread(collection: Collection, arm: str, baseline: str) -> Spread:
    seeds = collection.common_seeds(arm, baseline)
    one, two = (collection.verdicts(name, "success", seeds) for name in (arm, baseline))
    return spread(one - two)


def _estimate(values: np.ndarray, seeds: Sequence[int], bootstrap: Bootstrap) -> Estimate | None:
    return seed_estimate(values.tolist(), seeds) if values.ndim == 1 else estimate(values, seeds, bootstrap)


def _values(
    collection: Collection, arm: str, column: Column, seeds: Sequence[int], task: str | None
) -> np.ndarray | None:
    """Values by seed and case (S, C), or (S,) for a quantity of a run. None when a run lacks it, or without seeds."""
    if not seeds:
        return None
    if column.name in QUANTITIES or column.name in SUBSETS:
        values_SC = collection.verdicts(arm, column.name if column.name in QUANTITIES else "success", seeds)
        keep = _subset(collection, column.name) if task is None else np.array(collection.cases.tasks) == task
        values_SC[:, ~keep] = np.nan
        return values_SC
    once = [_once(collection.arms[arm][seed], column) for seed in seeds]
    present = [value for value in once if value is not None]
    return np.array(present) if len(present) == len(once) else None


def _once(result: Result, column: Column) -> float | None:
    if column is FLOW:
        return fmean(result.flow.loss)
    if column.name in LOGGED:
        return last(result, LOGGED[column.name])
    if result.routing is None:
        return None
    return result.routing.tags_exact if column is TAGS else fmean(result.routing.mutual_information_L)


def _subset(collection: Collection, name: str) -> np.ndarray:
    cases = collection.cases
    if name not in SUBSETS:
        return np.ones(len(cases.tasks), dtype=bool)
    flags = np.array(cases.held_out_paraphrase if "phrasing" in name else cases.held_out_combination)
    return flags if name.startswith("held-out") else ~flags
