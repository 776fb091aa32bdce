"""What a model writes for the factory: instructions for a root (`propose`), and what really changed (`recaption`).

Its answers are checked, and asked for again with what was wrong, as at inference (`tagmoe.rewrite`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tagmoe.annotation.ask.texts import TextAnswer, TextAsker
from tagmoe.data.store.record import Record
from tagmoe.factory.meanings import Meanings
from tagmoe.factory.requests import Wish
from tagmoe.factory.verdicts import VerdictAnswer
from tagmoe.rewrite import checks
from tagmoe.vlm.question import VLM, Attachment, Question, object_schema

PROPOSE_VERSION = 1
RECAPTION_VERSION = 1
"""Raise one when a change of the code gives another question for the same record."""
NOTHING = "the words are not those of the picture, and nothing that changed can be named"
_SYSTEM = (
    "You write instructions for a picture editor. You look at the pictures closely and describe only what they show."
)
_PROPOSE = """\
Write {count} different instructions for editing this picture, of these kinds: {tasks}.
- Each asks for one edit that a person could want and that this picture allows: name things as they look here.
- Vary the things, the kinds and the wording; one sentence each, no two alike.
- An instruction of the kind "remove" or "replace" names something that the picture shows.
Answer with JSON: {{"instructions": [{{"task": kind, "instruction": text}}, ...]}}."""
_RECAPTION = """\
An editor was asked to turn picture 1 into picture 2 by this instruction:
{instruction}

It may have done something else. Write the instruction that says what really changed from picture 1 to picture 2.
- Say what changed, where, and how it looks in picture 2. One sentence or two. Never speak of picture 1 or 2.
- "certain" is false if nothing changed, or if what changed cannot be said.
Answer with JSON: {{"instruction": text, "certain": true or false}}."""
_AGAIN = "\nYour last answer could not be used: {problems}. It began: {before}\nAnswer again, without this fault."
_TEXT = {"type": "string", "maxLength": 600}


class ProposeAsker(TextAsker):
    """Asks for instructions for a root. Its text is a JSON list of {task, instruction}."""

    def __init__(self, vlm: VLM, *, tasks: Sequence[str], count: int, pixels: int) -> None:
        super().__init__(vlm, pixels=pixels)
        self._tasks, self._count = tuple(tasks), count

    def _version(self) -> str:
        return f"propose {PROPOSE_VERSION} {self._count} {','.join(self._tasks)}"

    def _unfit(self, record: Record) -> str:
        return ""

    def _pictures(self, record: Record) -> list[bytes]:
        return [next(iter(record.inputs), record.target).data]

    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question:
        item = object_schema({"task": {"enum": list(self._tasks)}, "instruction": _TEXT})
        several = {"type": "array", "items": item, "minItems": 1, "maxItems": self._count}
        words = _PROPOSE.format(count=self._count, tasks=", ".join(self._tasks)) + _again(wrong, before)
        return Question(
            (*shown, words),
            system=_SYSTEM,
            schema=object_schema({"instructions": several}),
            temperature=0.7,
            seed=attempt,
            max_tokens=120 * self._count,
        )

    def _problems(self, record: Record, value: Any) -> list[str]:
        usable = self._usable(value)
        return [] if usable else ["no instruction of it can be used"]

    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        return replace(found, text=json.dumps(self._usable(value)))

    def _usable(self, value: Any) -> list[dict[str, str]]:
        tried = (checks.is_a_text, checks.is_plain, checks.is_no_talk)
        found = []
        for one in value["instructions"]:
            text = " ".join(one["instruction"].split())
            if text and not any(check("", text) for check in tried):
                found.append({"task": one["task"], "instruction": text})
        return found


class RecaptionAsker(TextAsker):
    """Asks what really changed. Its verdict passes where that can be said; the words are in its values."""

    def _version(self) -> str:
        return f"recaption {RECAPTION_VERSION}"

    def _unfit(self, record: Record) -> str:
        return "" if record.inputs else "There is no picture before the edit."

    def _pictures(self, record: Record) -> list[bytes]:
        return [record.inputs[0].data, record.target.data]

    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question:
        words = _RECAPTION.format(instruction=record.instruction) + _again(wrong, before)
        return Question(
            ("Picture 1:", shown[0], "Picture 2:", shown[1], words),
            system=_SYSTEM,
            schema=object_schema({"instruction": _TEXT, "certain": {"type": "boolean"}}),
            temperature=0.0 if attempt == 1 else 0.5,
            seed=attempt,
            max_tokens=300,
        )

    def _problems(self, record: Record, value: Any) -> list[str]:
        if not value["certain"]:
            return []
        text = value["instruction"].strip()
        tried = (checks.is_a_text, checks.is_short, checks.is_plain, checks.is_no_talk)
        return [problem for check in tried if (problem := check(record.instruction, text)) is not None]

    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        if value["certain"]:
            return replace(found, text=value["instruction"].strip())
        return replace(found, status="refused", text=None, reason=NOTHING, by_server=False)


class RecaptionVerdict:
    """A `RecaptionAsker` whose answers are verdicts."""

    def __init__(self, asker: RecaptionAsker) -> None:
        self._asker = asker
        self.model, self.seed, self.settings = asker.model, asker.seed, asker.settings
        self.control, self.close = asker.control, asker.close

    async def annotate(self, record: Record) -> VerdictAnswer:
        """The verdict on a candidate."""
        found = await self._asker.annotate(record)
        values = None if found.text is None else json.dumps({"instruction": found.text})
        return VerdictAnswer(
            found.status,
            found.text is not None,
            reason=found.reason,
            values=values,
            raw=found.raw,
            key=found.key,
            model=found.model,
            by_server=found.by_server,
            notes=found.notes,
        )


def wishes_of(text: str, alike: float, meanings: Meanings | None = None) -> tuple[list[Wish], int]:
    """(the instructions of an answer of `ProposeAsker`, how many were left out as like an earlier one).

    alike: share of common words, of all words of two, from which they are alike. meanings: compares them as well.
    """
    kept: list[tuple[set[str], Wish]] = []
    left_out = 0
    for one in json.loads(text):
        words = set(re.findall(r"\w+", one["instruction"].casefold()))
        before = [wish.instruction for _, wish in kept]
        if any(len(words & other) >= alike * len(words | other) for other, _ in kept) or (
            meanings is not None and meanings.has_like(one["instruction"], before)
        ):
            left_out += 1
        else:
            kept.append((words, Wish(one["instruction"], one["task"])))
    return [wish for _, wish in kept], left_out


def _again(wrong: Sequence[str], before: str) -> str:
    return _AGAIN.format(problems="; ".join(wrong), before=repr(before[:300])) if wrong else ""
