"""The annotators: a vision-language model, rules that need no model, and for TagWorld its true tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

from tagmoe.annotation.answer import Annotation
from tagmoe.annotation.ask import prompt
from tagmoe.annotation.ask.asker import PIXELS, Asker, ModelAsker, row_key
from tagmoe.annotation.rules.rule_set import RuleSet
from tagmoe.data.store.record import Record
from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_image
from tagmoe.sentences import counted
from tagmoe.vlm.pictures import capped
from tagmoe.vlm.question import VLM, Answer, Attachment, Question

AnnotatorKind = Literal["vlm", "rules", "oracle"]
ANNOTATORS: tuple[AnnotatorKind, ...] = get_args(AnnotatorKind)
MOST_VOTES = 25


class Annotator(Asker[Annotation], Protocol):
    """Gives tags to records."""

    @property
    def rules_version(self) -> str:
        """Version of the rule set, for the provenance of the tags."""


class VLMAnnotator(ModelAsker):
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
            raise UsageError(
                f"{counted(votes, 'vote')} and a question for each tag were asked for; take one of the two."
            )
        super().__init__(vlm)
        self._rules, self._pixels = rules, pixels
        self._votes, self._per_tag, self.seed = votes, per_tag, seed

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
            unasked = Answer("refused", reason=str(error), attempts=0)
            return self._annotation(record, unasked, [unasked])
        # Ask one after the other: servers cache the pictures of the last question, and many rows run at once anyway.
        answers = []
        for question in questions:
            answers.append(await self._vlm.ask(question))
            if answers[-1].status == "refused":
                self._refused = question
            if self._per_tag and answers[-1].status != "ok":
                break
        good = [answer for answer in answers if answer.status == "ok"]
        if len(good) < len(questions) if self._per_tag else 2 * len(good) <= len(questions):
            bad = Counter(answer.status for answer in answers if answer.status != "ok").most_common(1)[0][0]
            return self._annotation(record, next(answer for answer in answers if answer.status == bad), answers)
        if len(questions) == 1:
            return self._annotation(record, good[0], answers, prompt.tags_of(good[0].value))
        tags, probabilities = (prompt.yes_of if self._per_tag else prompt.votes_of)(good)
        return self._annotation(record, good[0], answers, tags, probabilities)

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
        answers: Sequence[Answer],
        tags: tuple[int, ...] | None = None,
        probabilities: tuple[float, ...] | None = None,
    ) -> Annotation:
        """The annotation of a deciding answer. Its raw text is that of all answers, as JSON if several."""
        texts = [one.text for one in answers]
        found = Annotation(
            answer.status,
            tags=tags,
            probabilities=probabilities,
            reason=answer.reason,
            raw=texts[0] if len(texts) == 1 else json.dumps(texts),
            by_server=answer.attempts > 0,
            notes=tuple(dict.fromkeys(note for one in answers for note in one.notes)),
        )
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

    async def control(self) -> Answer:
        return Answer("ok", attempts=0)

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
