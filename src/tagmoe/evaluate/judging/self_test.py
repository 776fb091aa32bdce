"""The self-test: before anything is spent, a judge must tell the right answer from three wrong ones.

A dozen edits of TagWorld are shown with the right answer, the source again (copy), another edit's answer (shuffled) and
a black picture. Judges have failed such a test for years unnoticed: one rated black pictures like edits, another had
weights of zeros, a server's cache mixed pictures up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from PIL import Image

from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.judging.judge import Judge, Reply
from tagmoe.evaluate.metrics.metric import NoValue
from tagmoe.world import sample

TASKS = (
    *("add", "remove", "replace", "recolour", "move", "resize"),
    *("retexture", "expression", "wear", "background", "style", "light"),
)
SEED = 77
WRONG = ("copy", "shuffled", "black")
MARGIN = 0.25
"""The right answer must be so much of the scale above each wrong one, in the mean over the cases. A head has no scale:
for it the range of its values on these cases stands there. [ours]"""
REPEATS = 0.1
"""Asked again in another order, answers may differ by so much of the scale in the mean. [ours]"""
AGREE = 0.75
"""A judge that compares must give one answer for both orders in so many of its pairs. [ours]"""
UNANSWERED = 0.1
"""So many questions may go without a usable answer. [ours]"""


@dataclass(frozen=True)
class BuiltIn:
    """A case of the self-test, with what is shown as output, and as the other output."""

    case: Case
    pictures: Mapping[str, Image.Image]

    def shown(self, name: str) -> tuple[Image.Image, str | None]:
        """A picture."""
        return self.pictures[name], None

    def with_output(self, picture: Image.Image, other: Image.Image | None = None) -> BuiltIn:
        """The same case with another output."""
        return BuiltIn(self.case, {**self.pictures, "output": picture, **({"other": other} if other else {})})


@dataclass(frozen=True)
class SelfTest:
    """What a judge did.

    means: of the right answer and of each wrong one, on its scale; of one that compares, how often the right answer was
    preferred to it. apart: mean difference of two answers to one question. agrees: share of pairs with one answer for
    both orders. seconds, tokens: of one case; tokens of questions and answers, where the server counts them. faults:
    why it fails; empty if it passes.
    """

    means: Mapping[str, float | None]
    apart: float | None
    agrees: float | None
    cases: int
    statuses: Mapping[str, int]
    seconds: float
    tokens: tuple[float, float] | None
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the judge may be used."""
        return not self.faults

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "passed": self.passed,
            "faults": list(self.faults),
            "means": dict(self.means),
            "apart": self.apart,
            "agrees": self.agrees,
            "cases": self.cases,
            "statuses": dict(self.statuses),
            "seconds_per_case": self.seconds,
            "tokens_per_case": self.tokens,
        }


@cache
def built_in_cases() -> tuple[BuiltIn, ...]:
    """A dozen edits, each of another task. The output is the right answer."""
    found = []
    for index, task in enumerate(TASKS):
        drawn = sample(SEED, index, split="test", task=task)
        source, target = Image.fromarray(drawn.sources[0]), Image.fromarray(drawn.target)
        case = Case(bench="self-test", id=task, task=task, instruction=drawn.instruction, source="source")
        found.append(BuiltIn(case, {"source": source, "output": target}))
    return tuple(found)


async def self_test(judge: Judge, *, in_flight: int = 8) -> SelfTest:
    """Ask the judge about the built-in cases: 12 right and 36 wrong answers, and the right ones again."""
    cases = built_in_cases()
    started = time.perf_counter()
    asked: dict[tuple[str, int], BuiltIn] = {}
    for place, case in enumerate(cases):
        right = case.pictures["output"]
        wrong = {
            "copy": case.pictures["source"],
            "shuffled": cases[place - 1].pictures["output"],
            "black": Image.new("RGB", right.size),
        }
        if judge.description.compares:
            asked |= {(name, place): case.with_output(right, picture) for name, picture in wrong.items()}
        else:
            asked[("right", place)] = case
            asked |= {(name, place): case.with_output(picture) for name, picture in wrong.items()}
    first = await _ask(judge, asked, in_flight)
    seconds = (time.perf_counter() - started) / len(asked) * min(in_flight, len(asked))
    name = "copy" if judge.description.compares else "right"
    again = await _ask(judge, {key: case for key, case in reversed(asked.items()) if key[0] == name}, in_flight)
    return _result(judge, first, again, seconds)


async def _ask(
    judge: Judge, asked: Mapping[tuple[str, int], BuiltIn], in_flight: int
) -> dict[tuple[str, int], list[Reply]]:
    slots = asyncio.Semaphore(in_flight)

    async def one(case: BuiltIn) -> list[Reply]:
        async with slots:
            return await judge.ask(case)

    replies = await asyncio.gather(*(one(case) for case in asked.values()))
    return dict(zip(asked, replies, strict=True))


def _result(
    judge: Judge,
    first: Mapping[tuple[str, int], Sequence[Reply]],
    again: Mapping[tuple[str, int], Sequence[Reply]],
    seconds: float,
) -> SelfTest:
    compares = judge.description.compares
    values: dict[str, dict[int, float]] = {}
    agreeing: list[float] = []
    for (kind, place), replies in first.items():
        found = judge.values(replies)
        if not isinstance(own := found[judge.name], NoValue):
            values.setdefault(kind, {})[place] = own
            if compares and not isinstance(same := found[f"{judge.name}_agrees"], NoValue):
                agreeing.append(same)
    numbers = [one for own in values.values() for one in own.values()]
    known = judge.description.width
    width = known if known is not None else max(numbers, default=0.0) - min(numbers, default=0.0)
    kinds = WRONG if compares else ("right", *WRONG)
    means = {kind: fmean(values[kind].values()) if values.get(kind) else None for kind in kinds}
    repeated = [
        abs(own - values[kind][place])
        for (kind, place), replies in again.items()
        if not isinstance(own := judge.values(replies)[judge.name], NoValue) and place in values.get(kind, {})
    ]
    apart = fmean(repeated) if repeated else None
    agrees = fmean(agreeing) if agreeing else None
    statuses = Counter(
        next((reply.status for reply in replies if reply.status != "ok"), "ok")
        for replies in (*first.values(), *again.values())
    )
    faults = []
    bad = sum(count for status, count in statuses.items() if status != "ok")
    if bad > UNANSWERED * statuses.total():
        reasons = Counter(reply.reason for found in first.values() for reply in found if reply.status != "ok")
        why = f" (mostly: {reasons.most_common(1)[0][0].rstrip('.')})" if reasons else ""
        faults.append(f"{bad} of {statuses.total()} questions have no usable answer{why}")
    for kind in WRONG:
        right = 0.5 if compares else means["right"]
        wrong = means[kind]
        if right is None or wrong is None:
            continue
        above = wrong - right if compares else right - wrong
        if above < MARGIN * width or not width:
            faults.append(_too_near(kind, right, wrong, MARGIN * width, compares=compares))
    if apart is not None and apart > REPEATS * width:
        faults.append(f"asked again, its answers differ by {apart:.2f}, and {REPEATS * width:g} is allowed")
    if agrees is not None and agrees < AGREE:
        faults.append(
            f"with the outputs exchanged it answers the same in {agrees:.0%} of the pairs, {AGREE:.0%} wanted"
        )
    cases = len({place for _, place in first})
    return SelfTest(means, apart, agrees, cases, statuses, seconds, _tokens(list(first.values())), tuple(faults))


def _tokens(replies: Sequence[Sequence[Reply]]) -> tuple[float, float] | None:
    """Mean tokens of the questions and of the answers of a case."""
    counts = [reply.tokens for found in replies for reply in found]
    if not counts or None in counts:
        return None
    known = [count for count in counts if count is not None]
    return sum(one for one, _ in known) / len(replies), sum(one for _, one in known) / len(replies)


def _too_near(kind: str, right: float, wrong: float, margin: float, *, compares: bool) -> str:
    names = {"copy": "the source again", "shuffled": "another edit's answer", "black": "a black picture"}
    if compares:
        return f"it prefers the right answer to {names[kind]} in {wrong:.0%} of the pairs, {0.5 + margin:.0%} wanted"
    return (
        f"the right answer gets {right:.2f} and {names[kind]} {wrong:.2f}: {right - wrong:.2f} apart, {margin:g} wanted"
    )
