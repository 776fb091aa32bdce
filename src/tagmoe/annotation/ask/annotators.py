"""The annotators: a vision-language model, rules that need no model, and for TagWorld its true tags."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

from tagmoe.annotation.answer import Annotation
from tagmoe.annotation.ask import prompt
from tagmoe.annotation.rules.rule_set import RuleSet
from tagmoe.data.store.record import Record
from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_image
from tagmoe.vlm.pictures import capped
from tagmoe.vlm.question import VLM, Answer, Attachment, Question

AnnotatorKind = Literal["vlm", "rules", "oracle"]
ANNOTATORS: tuple[AnnotatorKind, ...] = get_args(AnnotatorKind)
PIXELS = 1024 * 1024
"""Default for the largest number of pixels of a picture that a model is shown; larger pictures are scaled down."""
MOST_VOTES = 25


class Annotator(Protocol):
    """Gives tags to records.

    settings: JSON values on which all answers depend; with the record they determine the key of an answer.
    `annotate` raises UsageError for settings that cannot work. Any problem of a record becomes a status.
    """

    @property
    def model(self) -> str:
        """Name of the model, for the provenance of the tags."""

    @property
    def rules_version(self) -> str:
        """Version of the rule set, for the provenance of the tags."""

    @property
    def seed(self) -> int:
        """Seed of the sampling, for the provenance of the tags."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    async def annotate(self, record: Record) -> Annotation:
        """The tags of a record, or another status and its reason."""

    async def close(self) -> None: ...


def settings_digest(settings: Mapping[str, Any]) -> str:
    """A digest of the settings, 12 hexadecimal digits, with which the keys of all their annotations begin."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:12]


def row_key(record: Record, settings: Mapping[str, Any]) -> str:
    """A digest of everything that an annotation depends on: `settings_digest`, then pictures, words and native task.

    Records in a store never change, so comparing the first digits is enough to find rows that must be asked again.
    """
    pictures = [[picture.role, picture.digest] for picture in record.images]
    values = [pictures, record.target.digest, record.instruction, record.native_task]
    content = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return settings_digest(settings) + content[:20]


class VLMAnnotator:
    """Asks a vision-language model: once, `votes` times, or once for each tag (`per_tag`)."""

    def __init__(
        self,
        vlm: VLM,
        rules: RuleSet,
        *,
        pixels: int = PIXELS,
        votes: int = 1,
        per_tag: bool = False,
        seed: int = 0,
    ) -> None:
        if not 1 <= votes <= MOST_VOTES:
            raise UsageError(f"The number of votes is {votes}; give 1 to {MOST_VOTES}.")
        if per_tag and votes > 1:
            raise UsageError(f"{votes} votes and a question for each tag were asked for; take one of the two.")
        self._vlm, self._rules, self._pixels = vlm, rules, pixels
        self._votes, self._per_tag, self.seed = votes, per_tag, seed

    @property
    def model(self) -> str:
        return self._vlm.model

    @property
    def rules_version(self) -> str:
        return self._rules.version

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "rules": [self._rules.version, self._rules.digest],
            "prompt": prompt.VERSION,
            "pixels": self._pixels,
            "votes": self._votes,
            "per_tag": self._per_tag,
            "seed": self.seed,
        }

    async def annotate(self, record: Record) -> Annotation:
        """Ask for the tags. The answer has no tags if half of the votes, or the answer for any tag, is not ok."""
        if self._per_tag:
            questions = prompt.tag_questions(record, self._rules, seed=self.seed)
        else:
            questions = [
                prompt.task_question(record, self._rules, vote=vote, seed=self.seed) for vote in range(self._votes)
            ]
        try:
            questions = self._shrunk(questions)
        except ImageError as error:
            return self._annotation(record, Answer("refused", reason=str(error), attempts=0))
        # Ask one after the other: servers cache the pictures of the last question, and many rows run at once anyway.
        answers = []
        for question in questions:
            answers.append(await self._vlm.ask(question))
            if self._per_tag and answers[-1].status != "ok":
                break
        good = [answer for answer in answers if answer.status == "ok"]
        if len(good) < len(questions) if self._per_tag else 2 * len(good) <= len(questions):
            bad = Counter(answer.status for answer in answers if answer.status != "ok").most_common(1)[0][0]
            return self._annotation(record, next(answer for answer in answers if answer.status == bad))
        raw = good[0].text if len(good) == 1 else json.dumps([answer.text for answer in good])
        if len(questions) == 1:
            return self._annotation(record, replace(good[0], text=raw), prompt.tags_of(good[0].value))
        tags, probabilities = (prompt.yes_of if self._per_tag else prompt.votes_of)(good)
        return self._annotation(record, replace(good[0], text=raw), tags, probabilities)

    async def close(self) -> None:
        await self._vlm.close()

    def _shrunk(self, questions: list[Question]) -> list[Question]:
        """The questions with pictures of at most `pixels` pixels; equal pictures are scaled once."""
        small: dict[str, Attachment] = {}
        for part in questions[0].parts:
            if isinstance(part, Attachment) and part.digest not in small:
                small[part.digest] = Attachment(capped(part.data, self._pixels))
        return [
            replace(
                question,
                parts=tuple(small[part.digest] if isinstance(part, Attachment) else part for part in question.parts),
            )
            for question in questions
        ]

    def _annotation(
        self,
        record: Record,
        answer: Answer,
        tags: tuple[int, ...] | None = None,
        probabilities: tuple[float, ...] | None = None,
    ) -> Annotation:
        found = Annotation(answer.status, tags=tags, probabilities=probabilities, reason=answer.reason, raw=answer.text)
        return _signed(found, record, self)


class _WithoutModel:
    """Annotates in this process, at once: a record gives its tags, without key and version."""

    model: str
    rules_version: str
    seed = 0
    _tags: Callable[[Record], Annotation]

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": self.model, "rules": self.rules_version}

    async def annotate(self, record: Record) -> Annotation:
        return _signed(self._tags(record), record, self)

    async def close(self) -> None:
        return None


class RuleAnnotator(_WithoutModel):
    """Annotates by rules, without a model: words, native task and pixels (`tagmoe.annotation.rules.annotator`)."""

    model = "rules"

    def __init__(self) -> None:
        from tagmoe.annotation.rules import annotator as rule_annotator

        self._tags = rule_annotator.annotate
        self.rules_version = rule_annotator.VERSION


class OracleAnnotator(_WithoutModel):
    """Gives the true tags of TagWorld records; records of other data sets are refused."""

    model = "oracle"
    rules_version = "1"

    def __init__(self) -> None:
        self._tags = _true_tags


def _true_tags(record: Record) -> Annotation:
    from tagmoe.data.sources.tagworld import DATASET
    from tagmoe.world import rule_tags

    if record.dataset != DATASET:
        return Annotation("refused", reason=f"Not a record of TagWorld but of {record.dataset!r}.")
    try:
        pictures = [load_image(picture.data) for picture in record.inputs]
    except ImageError:
        return Annotation("refused", reason="A picture cannot be decoded.")
    found = rule_tags(record.instruction, pictures)
    if found.descriptor is None:
        return Annotation("refused", reason=found.reason)
    return Annotation("ok", tags=found.descriptor.indices, raw=found.descriptor.format())


def _signed(found: Annotation, record: Record, annotator: Annotator) -> Annotation:
    """The annotation with its key, its model and the version of its rules."""
    key = row_key(record, annotator.settings)
    return replace(found, key=key, model=annotator.model, rules_version=annotator.rules_version)
