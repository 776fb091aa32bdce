"""One question to a vision-language model, its answer, and the protocol that every backend speaks.

Callers know no servers, and backends know no tags. An annotation, a rewrite and a judgement are all a `Question` whose
answer must fit a JSON schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

Status = Literal["ok", "invalid", "refused", "failed"]
"""ok: the answer fits. invalid: the model answered something else. refused: the model or the server will not answer
this question (its content, a picture). failed: no answer came (no connection, a timeout, a server error)."""
STATUSES: tuple[Status, ...] = get_args(Status)


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Attachment:
    """An encoded picture (PNG, JPEG or WebP bytes) of a question."""

    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Question:
    """What is asked. parts: texts and pictures of the user's message, in the order that the model sees them.

    schema: JSON schema of the answer, or None for free text. choices: instead of a schema, the allowed words; the
    answer is one of them, with the probability of each. temperature, seed: of the sampling; temperature 0 is greedy.
    max_tokens: of the answer.
    """

    parts: tuple[str | Attachment, ...]
    system: str = ""
    schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 512

    @cached_property
    def key(self) -> str:
        """A digest of all that the answer depends on, except the model: pictures, words, schema and sampling."""
        parts = [part if isinstance(part, str) else {"picture": part.digest} for part in self.parts]
        values = [self.system, parts, self.schema, self.choices, self.temperature, self.seed, self.max_tokens]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """The outcome of a question.

    text: what the model or a refusing server wrote, as it came. value: the parsed answer that fits the schema, the
    chosen word, or the text where neither was asked for; None unless ok. reason: one sentence, why it is not ok.
    attempts: requests made; 0 if nothing was asked. probabilities: of each of the question's choices, where they were
    asked for and can be had. notes: what was mended in the answer, and fields of the request that were left out.
    tokens: of the question and of the answer, where the server counts them.
    """

    status: Status
    text: str = ""
    value: Any = None
    reason: str = ""
    attempts: int = 1
    probabilities: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()
    tokens: tuple[int, int] | None = None


class VLM(Protocol):
    """A backend that can be asked. Bad answers and lost connections come back as an `Answer`, never as an exception."""

    @property
    def model(self) -> str:
        """Name of the model, as it stands in the provenance of its answers."""

    async def ask(self, question: Question) -> Answer:
        """The answer. Raises UsageError only for settings that can never work (a wrong key, a text-only model), and
        DataError when a server takes a key or a model no more that it took before."""

    async def close(self) -> None:
        """Close connections and release the model."""
