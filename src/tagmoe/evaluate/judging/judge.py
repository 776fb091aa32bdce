"""A judge: the questions about a pair that a description makes, and the values that the answers give.

An answer that is no number of the scale, that is refused, or that never comes is a missing value, and never a guess.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import fmean
from typing import Any, Protocol

from PIL import Image

from tagmoe.config.part import Part
from tagmoe.evaluate.benchmarks.cases import Case, digest_of
from tagmoe.evaluate.judging.description import INSTRUCTION, Asked, JudgeDescription
from tagmoe.evaluate.metrics.metric import Lack, Measure, NoValue, Pair, Value, lacking
from tagmoe.pictures import quick_png
from tagmoe.vlm.question import VLM, Answer, Attachment, Question, Status, object_schema

VERSION = 1
KEPT_PICTURES = 256
"""Encoded sources and references that are kept: several editors are judged on the same ones."""
CHOICES = ("0", "1")
PREFERENCES = {"A": 1.0, "B": 0.0, "T": 0.5}
MISSING: dict[Status, Lack] = {"invalid": "parse_error", "refused": "refused", "failed": "failed"}


class Reply(Part):
    """The answer to one question, as it came. exchanged: the outputs were shown in the other order. turn: which of
    several passes, from 0. numbers: of the answer; empty unless ok. tokens: of question and answer, where the server
    counts them."""

    question: str
    exchanged: bool = False
    turn: int = 0
    status: Status
    text: str
    reason: str = ""
    numbers: tuple[float, ...] = ()
    attempts: int = 1
    notes: tuple[str, ...] = ()
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Posed:
    """A question of a judge about a pair. exchanged: the outputs are in the other order. turn: which pass, from 0."""

    asked: Asked
    exchanged: bool
    turn: int
    question: Question


class Shows(Protocol):
    """What a judge sees of a case: the pictures by name. `Pair` and the cases of the self-test do."""

    @property
    def case(self) -> Case: ...
    def shown(self, name: str) -> tuple[Image.Image, str | None]:
        """A picture, and the name under which other cases have it too."""


@dataclass(frozen=True)
class Compared:
    """A pair, and the output of the other editor for the same case."""

    pair: Pair
    other: Image.Image | None = None

    @property
    def case(self) -> Case:
        """The case."""
        return self.pair.case

    def shown(self, name: str) -> tuple[Image.Image, str | None]:
        """A picture of the pair. Raises ImageError for a damaged one."""
        pair = self.pair
        pictures = {"source": (pair.source, pair.case.source), "mask": (pair.mask, pair.case.mask)}
        if name == "reference":
            return pair.reference(0), pair.case.refs[0]
        picture, key = pictures.get(name, (pair.output if name == "output" else self.other, None))
        assert picture is not None
        return picture, key


class Judge:
    """A description and the model that is asked."""

    def __init__(self, description: JudgeDescription, vlm: VLM, *, seed: int = 0) -> None:
        self.description, self.vlm, self.seed = description, vlm, seed
        self._encoded: OrderedDict[str, Attachment] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name."""
        return self.description.name

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Its values; of one that compares also whether both orders gave the same."""
        measures = self.description.measures
        if self.description.compares:
            agrees = Measure(
                f"{self.name}_agrees", "higher", "both orders of the outputs give one answer", kind="outcome"
            )
            measures = (*measures, agrees)
        return measures

    def basis(self, against: str | None = None) -> dict[str, Any]:
        """All that its values depend on. against: the key of the run that it compares with."""
        return {
            "judge": self.name,
            "version": VERSION,
            "origin": self.description.origin,
            "description": digest_of(self.description.model_dump()),
            "model": self.vlm.model,
            "temperature": self.description.temperature,
            "seed": self.seed,
            **({"against": against} if against is not None else {}),
        }

    def why_not(self, case: Case) -> str | None:
        """Why a case is none for this judge; None where it is one."""
        needed = {name for one in self._asked(case) for name in one.shows}
        if self.description.cases == "editing" and (case.source is None or "control" in case.meta):
            return "the case has no source that is to be edited"
        if not needed:
            return "the judge has no question for such a case"
        has = {"source": case.source, "mask": case.mask, "reference": case.refs}
        lacks = [name for name, given in has.items() if name in needed and not given]
        return f"the case has no {lacks[0]}" if lacks else None

    def questions(self, pair: Shows) -> list[Posed]:
        """What is asked about a case. Raises ImageError."""
        orders = (False, True) if self.description.compares else (False,)
        own = _Encoded(self, pair)
        posed = [
            Posed(asked, exchanged, 0, self._question(asked, own, exchanged=exchanged))
            for asked in self._asked(pair.case)
            for exchanged in orders
        ]
        return [
            replace(one, turn=turn, question=replace(one.question, seed=self.seed + turn))
            for turn in range(self.description.passes)
            for one in posed
        ]

    async def ask(self, pair: Shows) -> list[Reply]:
        """The answers about a case, one question after the other; after one that failed no more are asked."""
        replies: list[Reply] = []
        # Pictures are decoded, scaled and encoded in threads, beside the answers that are waited for.
        for posed in await asyncio.to_thread(self.questions, pair):
            reply = reply_of(posed, await self.vlm.ask(posed.question), self.description)
            replies.append(reply)
            if reply.status == "failed":
                break
        return replies

    def values(self, replies: Sequence[Reply]) -> dict[str, Value]:
        """The values that the answers about one case give."""
        bad = next((reply for reply in replies if reply.status != "ok"), None)
        if bad is not None:
            return lacking(self.measures, MISSING[bad.status], bad.reason)
        description = self.description
        if description.compares:
            found = [1 - reply.numbers[0] if reply.exchanged else reply.numbers[0] for reply in replies]
            return {self.name: sum(found) / len(found), f"{self.name}_agrees": float(len(set(found)) == 1)}
        turns: dict[int, dict[str, float]] = {}
        for reply in replies:
            turns.setdefault(reply.turn, {})[reply.question] = self._part(reply)
        overall = [self._overall(list(parts.values())) for parts in turns.values()]
        values: dict[str, Value] = {self.name: description.factor * fmean(overall)}
        for part in description.parts if len(description.parts) > 1 else ():
            each = [parts[part] for parts in turns.values() if part in parts]
            missing = NoValue("not_applicable", "the case is not asked this")
            values[f"{self.name}_{part}"] = description.factor * fmean(each) if each else missing
        return values

    def _part(self, reply: Reply) -> float:
        """The number of a question, of those in its answer."""
        reduces = {one.name: one.reduce for one in self.description.questions}
        return min(reply.numbers) if reduces[reply.question] == "min" else fmean(reply.numbers)

    def _overall(self, parts: Sequence[float]) -> float:
        """The number of one pass, of those of its questions."""
        return prod(parts) ** (1 / len(parts)) if self.description.overall == "geometric-mean" else fmean(parts)

    def _asked(self, case: Case) -> Iterable[Asked]:
        return [one for one in self.description.questions if one.fits(case)]

    def _question(self, asked: Asked, pictures: _Encoded, *, exchanged: bool) -> Question:
        turned = {"output": "other", "other": "output"} if exchanged else {}
        shown = [pictures.attachment(turned.get(name, name)) for name in asked.shows]
        words = asked.words.replace(INSTRUCTION, pictures.pair.case.instruction)
        question = Question(
            (*shown, words),
            temperature=self.description.temperature,
            seed=self.seed,
            max_tokens=self.description.max_tokens,
        )
        if self.description.compares:
            return replace(question, choices=tuple(PREFERENCES))
        if not asked.scores:
            return replace(question, choices=CHOICES)
        return replace(question, schema=_schema(asked, self.description))

    def attachment(self, picture: Image.Image, key: str | None) -> Attachment:
        """A picture as it is sent; one that has a key is encoded once for all editors."""
        with self._lock:
            known = self._encoded.get(key) if key is not None else None
        if known is not None:
            return known
        attachment = Attachment(encoded(picture, self.description.least_pixels, self.description.most_pixels))
        if key is not None:
            with self._lock:
                self._encoded[key] = attachment
                while len(self._encoded) > KEPT_PICTURES:
                    self._encoded.popitem(last=False)
        return attachment


class _Encoded:
    """The pictures of one pair, each encoded once: several questions and both orders show the same ones."""

    def __init__(self, judge: Judge, pair: Shows) -> None:
        self.pair, self._judge = pair, judge
        self._known: dict[str, Attachment] = {}

    def attachment(self, name: str) -> Attachment:
        if name not in self._known:
            self._known[name] = self._judge.attachment(*self.pair.shown(name))
        return self._known[name]


def reply_of(posed: Posed, answer: Answer, description: JudgeDescription) -> Reply:
    """The reply that an answer is."""
    asked = posed.asked
    numbers: tuple[float, ...] = ()
    if answer.status == "ok":
        if description.compares:
            numbers = (PREFERENCES[answer.value],)
        elif not asked.scores:
            numbers = (float(answer.value),)
        else:
            given = answer.value["score"] if asked.as_list else [answer.value[name] for name in asked.scores]
            numbers = tuple(map(float, given))
    return Reply(
        question=asked.name,
        exchanged=posed.exchanged,
        turn=posed.turn,
        status=answer.status,
        text=answer.text,
        reason=answer.reason,
        numbers=numbers,
        attempts=answer.attempts,
        notes=answer.notes,
        tokens=answer.tokens,
    )


def _schema(asked: Asked, description: JudgeDescription) -> Mapping[str, Any]:
    if description.answers == "head":
        return object_schema({asked.scores[0]: {"type": "number"}})
    number = {"type": "number", "minimum": description.least, "maximum": description.most}
    reasoning = {"reasoning": {"type": "string", "maxLength": 2000}}
    if asked.as_list:
        count = len(asked.scores)
        scores: dict[str, Any] = {"score": {"type": "array", "items": number, "minItems": count, "maxItems": count}}
        return object_schema({**scores, **reasoning})
    return object_schema({**reasoning, **dict.fromkeys(asked.scores, number)})


def encoded(picture: Image.Image, least: int, most: int) -> bytes:
    """Lossless PNG of a picture with at least and at most so many pixels: a judge must see what was made."""
    pixels = picture.width * picture.height
    scale = (max(least, min(most, pixels)) / pixels) ** 0.5
    if scale != 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return quick_png(picture)
