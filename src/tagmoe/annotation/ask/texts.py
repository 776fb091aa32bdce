"""Ask a model for texts instead of tags: a better wording of each instruction, or the instruction of the inverse edit.

A text that fails its checks is asked for again, with what was wrong, as at inference (`tagmoe.rewrite`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tagmoe.annotation.ask.asker import PIXELS, ModelAsker, row_key
from tagmoe.annotation.ask.inverse_prompt import INVERSE_VERSION, inverse_question
from tagmoe.annotation.ask.plan import AskPlan
from tagmoe.data.inverse.invert import PICTURES, TEXTS
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.errors import ImageError, UsageError
from tagmoe.rewrite import checks
from tagmoe.rewrite.prompt import PROMPT_VERSION, rewrite_question
from tagmoe.rewrite.rewriter import ATTEMPTS, ask_again, is_same, wording_problems
from tagmoe.vlm.pictures import capped
from tagmoe.vlm.question import VLM, Attachment, Question, Status

REWRITING = "rewriting"
"""The column of the answers that `instruction_rewritten` was set from."""
AS_IT_IS = "left as it is: the instruction is clear"
UNCERTAIN = "The model is not certain what the inverse edit is."
TEXT = pa.struct([(name, pa.string()) for name in ("text", "status", "reason", "raw", "key", "model")])


@dataclass(frozen=True)
class TextAnswer:
    """A model's text for one record. text: None unless the status is ok. The others are as in `Annotation`."""

    status: Status
    text: str | None = None
    reason: str = ""
    raw: str = ""
    key: str = ""
    model: str = ""
    by_server: bool = field(default=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.status == "ok"):
            raise UsageError(f"A text with the status {self.status!r} is {self.text!r}.")

    def to_row(self) -> dict[str, Any]:
        """The answer as a value of TEXT."""
        return {name: getattr(self, name) for name in TEXT.names}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TextAnswer:
        """The answer of a value of TEXT."""
        return cls(**row)


class TextAsker(ModelAsker):
    """Asks a model for one text for each record. pixels: cap of a picture as the model sees it."""

    seed = 0

    def __init__(self, vlm: VLM, *, pixels: int = PIXELS) -> None:
        super().__init__(vlm)
        self._pixels = pixels

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": self.model, "prompt": self._version(), "pixels": self._pixels, "attempts": ATTEMPTS}

    async def annotate(self, record: Record) -> TextAnswer:
        """The text for a record. One that fails its checks ATTEMPTS times is invalid."""
        reason = self._unfit(record)
        if reason:
            return self._signed(TextAnswer("refused", reason=reason), record)
        try:
            shown = [Attachment(capped(data, self._pixels)) for data in self._pictures(record)]
        except ImageError as error:
            return self._signed(TextAnswer("refused", reason=str(error)), record)

        def question(wrong: Sequence[str], before: str, attempt: int) -> Question:
            return self._question(record, shown, wrong, before, attempt)

        answer = await ask_again(self._vlm, question, lambda value: self._problems(record, value), ATTEMPTS)
        if answer.status == "refused":
            self._refused = question((), "", 1)
        found = TextAnswer(
            answer.status,
            reason=answer.reason,
            raw=answer.text,
            by_server=answer.attempts > 0,
            notes=answer.notes,
            text="" if answer.status == "ok" else None,
        )
        return self._signed(self._of_value(record, found, answer.value) if answer.status == "ok" else found, record)

    def _signed(self, found: TextAnswer, record: Record) -> TextAnswer:
        return replace(found, key=row_key(record, self.settings), model=self.model)

    @abstractmethod
    def _version(self) -> str:
        """Name and version of the prompt."""

    @abstractmethod
    def _unfit(self, record: Record) -> str:
        """Why this record cannot be asked about, in one sentence; empty if it can."""

    @abstractmethod
    def _pictures(self, record: Record) -> list[bytes]:
        """The encoded pictures that the model is shown, in order."""

    @abstractmethod
    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question: ...

    @abstractmethod
    def _problems(self, record: Record, value: Any) -> list[str]:
        """The problems of an answer; empty when it may be used."""

    @abstractmethod
    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        """The answer with the text of a value without problems."""


class RewriteAsker(TextAsker):
    """Asks for a better wording of the instruction, by the prompt that is used at inference (paper 3.2)."""

    def _version(self) -> str:
        return f"rewrite {PROMPT_VERSION}"

    def _unfit(self, record: Record) -> str:
        return "" if record.instruction.strip() else "The row has no instruction."

    def _pictures(self, record: Record) -> list[bytes]:
        return [picture.data for picture in record.inputs]

    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question:
        return rewrite_question(record.instruction, shown, problems=wrong, before=before, attempt=attempt)

    def _problems(self, record: Record, value: Any) -> list[str]:
        return wording_problems(record.instruction, value)

    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        if is_same(record.instruction, value):
            return replace(found, text=record.instruction, notes=(*found.notes, AS_IT_IS))
        return replace(found, text=value["rewritten"].strip())


class InverseAsker(TextAsker):
    """Asks for the instruction of the edit from the target back to the source."""

    def _version(self) -> str:
        return f"inverse {INVERSE_VERSION}"

    def _unfit(self, record: Record) -> str:
        given = [picture.role for picture in record.inputs]
        return "" if given in (["source"], ["reference"]) else PICTURES

    def _pictures(self, record: Record) -> list[bytes]:
        return [record.target.data, *(picture.data for picture in record.inputs)]

    def _question(
        self, record: Record, shown: Sequence[Attachment], wrong: Sequence[str], before: str, attempt: int
    ) -> Question:
        return inverse_question(record.instruction, shown, wrong, before, attempt)

    def _problems(self, record: Record, value: Any) -> list[str]:
        if not value["certain"]:
            return []
        text = value["instruction"].strip()
        tried = (checks.is_a_text, checks.is_short, checks.is_plain, checks.is_no_talk, checks.keeps_language)
        found = [problem for check in tried if (problem := check(record.instruction, text)) is not None]
        same = " ".join(text.split()).casefold() == " ".join(record.instruction.split()).casefold()
        return [*found, "it is the instruction of the edit itself"] if same else found

    def _of_value(self, record: Record, found: TextAnswer, value: Any) -> TextAnswer:
        if value["certain"]:
            return replace(found, text=value["instruction"].strip())
        return replace(found, status="refused", text=None, reason=UNCERTAIN, by_server=False)


@dataclass(frozen=True)
class TextPlan(AskPlan[TextAnswer]):
    """A plan whose answers are texts."""

    @property
    def kind(self) -> pa.DataType:
        return TEXT

    def read(self, row: Mapping[str, Any]) -> TextAnswer:
        return TextAnswer.from_row(row)


@dataclass(frozen=True)
class RewritePlan(TextPlan):
    """Better wordings, for `instruction_rewritten`. The rows of `rows_to_rewrite` are asked."""

    @property
    def column(self) -> str:
        return REWRITING

    @property
    def beside(self) -> Mapping[str, pa.DataType]:
        return {"instruction_rewritten": pa.string()}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("instruction",)

    def take(self, values: dict[str, Any], found: TextAnswer, seed: int) -> bool:
        """A wording that is the instruction itself leaves `instruction_rewritten` empty."""
        if found.status != "ok":
            return False
        wording = None if found.text == values["instruction"] else found.text
        changed = bool(wording != values["instruction_rewritten"])
        values["instruction_rewritten"] = wording
        return changed


@dataclass(frozen=True)
class InversePlan(TextPlan):
    """Texts of inverse edits, which `invert` reads. The rows of `waiting_rows` are asked."""

    @property
    def column(self) -> str:
        return TEXTS


def rows_to_rewrite(store: Store, *, replace_given: bool = False) -> np.ndarray:
    """(rows,) of bool: the rows without `instruction_rewritten`, and those that have it from a model that was asked
    here. replace_given: all rows."""
    chosen = np.ones(len(store), dtype=bool)
    if replace_given:
        return chosen
    asked = REWRITING in store.columns
    row = 0
    for batch in store.scan(["instruction_rewritten", *([REWRITING] if asked else [])], rows=8192):
        for values in batch.to_pylist():
            ours = (values[REWRITING] or {}).get("text") if asked else None
            chosen[row] = values["instruction_rewritten"] in (None, ours)
            row += 1
    return chosen
