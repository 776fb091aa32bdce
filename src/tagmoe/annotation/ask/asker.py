"""Who can be asked for the answers to the rows of a store, and the key by which an answer is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from tagmoe.data.store.record import Record
from tagmoe.vlm.control import control_question
from tagmoe.vlm.question import VLM, Answer, Question, Status

PIXELS = 1024 * 1024
"""Default for the largest number of pixels of a picture that a model is shown; larger pictures are scaled down."""


class RowAnswer(Protocol):
    """The answer for one row, whatever was asked. The fields are described at `tagmoe.annotation.answer.Annotation`."""

    @property
    def status(self) -> Status: ...
    @property
    def reason(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def by_server(self) -> bool: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def to_row(self) -> dict[str, Any]:
        """The answer as a value of its column."""


Found = TypeVar("Found", bound=RowAnswer, covariant=True)


class Asker(Protocol[Found]):
    """Gives an answer to each record.

    settings: JSON values on which all answers depend; with the record they determine the key of an answer.
    `annotate` raises UsageError for settings that cannot work, and DataError for a server that answers no more. Any
    problem of a record becomes a status.
    """

    @property
    def model(self) -> str:
        """Name of the model, for the provenance of the answers."""

    @property
    def seed(self) -> int:
        """Seed of the sampling, for the provenance of the answers."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    async def annotate(self, record: Record) -> Found:
        """The answer for a record, or another status and its reason."""

    async def control(self) -> Answer:
        """The answer to the control question of the last refusal (`tagmoe.vlm.control`)."""

    async def close(self) -> None: ...


class ModelAsker:
    """What all who ask a model do alike. A subclass notes in `_refused` the question that was refused last."""

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm
        self._refused: Question | None = None

    @property
    def model(self) -> str:
        return self._vlm.model

    async def control(self) -> Answer:
        """The answer to the control question of the last refusal; ok if nothing was refused."""
        if self._refused is None:
            return Answer("ok", attempts=0)
        return await self._vlm.ask(control_question(self._refused))

    async def close(self) -> None:
        await self._vlm.close()


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
