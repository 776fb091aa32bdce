"""The step `judge` with a model: the judges of `tagmoe eval judge`, asked about candidates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tagmoe.annotation.ask.asker import row_key
from tagmoe.data.store.record import Record
from tagmoe.errors import ImageError, UsageError
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.judging.description import read_judge
from tagmoe.evaluate.judging.judge import Judge, Reply
from tagmoe.evaluate.judging.self_test import SelfTest, self_test
from tagmoe.evaluate.metrics.metric import NoValue
from tagmoe.factory.plan import Judge as JudgeStep
from tagmoe.factory.verdicts import VerdictAnswer
from tagmoe.pictures import load_image, load_mask
from tagmoe.vlm.control import control_question
from tagmoe.vlm.question import VLM, Answer, Question

BELOW = "the judge's value is below the least"


@dataclass(frozen=True)
class Shown:
    """A candidate as a judge sees it."""

    case: Case
    pictures: Mapping[str, Callable[[], Image.Image]] = field(repr=False)

    def shown(self, name: str) -> tuple[Image.Image, str | None]:
        """A picture. Raises ImageError for a damaged one."""
        return self.pictures[name](), None

    @classmethod
    def of(cls, record: Record) -> Shown:
        """A candidate: its source, mask, references, and what was made as the output."""
        roles: dict[str, list[bytes]] = {}
        for picture in record.images:
            roles.setdefault(picture.role, []).append(picture.data)
        source, mask = roles.get("source", [None])[0], roles.get("mask", [None])[0]
        refs = roles.get("reference", [])
        pictures: dict[str, Callable[[], Image.Image]] = {"output": lambda: load_image(record.target.data)}
        if source is not None:
            pictures["source"] = lambda: load_image(source)
        if mask is not None:
            pictures["mask"] = lambda: load_mask(mask)
        if refs:
            pictures["reference"] = lambda: load_image(refs[0])
        case = Case(
            bench=record.dataset,
            id=record.id,
            task=record.native_task,
            instruction=record.instruction,
            source=None if source is None else "source",
            mask=None if mask is None else "mask",
            refs=tuple(f"reference {number}" for number in range(len(refs))),
        )
        return cls(case, pictures)


class JudgeAsker:
    """Asks a judge about candidates, for the driver of `tagmoe data annotate`."""

    seed = 0

    def __init__(self, judge: Judge, least: float) -> None:
        self._judge, self._least = judge, least
        self._refused: Question | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._judge.vlm.model

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its verdicts depend on."""
        return {**self._judge.basis(), "least": self._least}

    async def annotate(self, record: Record) -> VerdictAnswer:
        """The verdict on a candidate."""
        found = await self._found(record)
        return found.signed(row_key(record, self.settings), self.model)

    async def _found(self, record: Record) -> VerdictAnswer:
        shown = Shown.of(record)
        why = self._judge.why_not(shown.case)
        if why is not None:
            return VerdictAnswer("refused", False, reason=f"not judged: {why}")
        try:
            replies = await self._judge.ask(shown)
        except ImageError as error:
            return VerdictAnswer("refused", False, reason=str(error))
        return self._of(shown, replies)

    def _of(self, shown: Shown, replies: list[Reply]) -> VerdictAnswer:
        raw = json.dumps([reply.text for reply in replies])
        bad = next((reply for reply in replies if reply.status != "ok"), None)
        if bad is not None:
            if bad.status == "refused":
                self._refused = self._judge.questions(shown)[len(replies) - 1].question
            return VerdictAnswer(bad.status, False, reason=bad.reason, raw=raw, by_server=bad.attempts > 0)
        values = self._judge.values(replies)
        score = values[self._judge.name]
        assert not isinstance(score, NoValue)
        parts = {name: value for name, value in values.items() if not isinstance(value, NoValue)}
        passed = score >= self._least
        return VerdictAnswer("ok", passed, score, "" if passed else BELOW, values=json.dumps(parts), raw=raw)

    async def control(self) -> Answer:
        """The answer to the control question of the last refusal."""
        if self._refused is None:
            return Answer("ok", attempts=0)
        return await self._judge.vlm.ask(control_question(self._refused))

    async def close(self) -> None:
        """Close the model."""
        await self._judge.vlm.close()


@dataclass(frozen=True)
class JudgeMaker:
    """Makes the asker of a step, in each process."""

    step: JudgeStep
    vlm: Callable[[], VLM]

    def judge(self) -> Judge:
        """The judge. Raises UsageError for one that compares two editors."""
        description = read_judge(self.step.by)
        if description.compares:
            raise UsageError(f"The judge {self.step.by!r} compares two editors; name one that judges a picture alone.")
        return Judge(description, self.vlm())

    def __call__(self) -> JudgeAsker:
        return JudgeAsker(self.judge(), self.step.least)

    def test(self) -> SelfTest:
        """The self-test of `tagmoe eval judge`."""

        # Opening a server checks it in an event loop of its own.
        judge = self.judge()

        async def ask() -> SelfTest:
            try:
                return await self_test(judge)
            finally:
                await judge.vlm.close()

        return asyncio.run(ask())
