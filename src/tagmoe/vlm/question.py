"""One question to a vision-language model, its answer, and the protocol that every backend speaks.

Whoever asks knows no servers, and whoever answers knows no tags: an annotation, a rewrite and a judgement are all a
`Question` whose answer must fit a JSON schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

Status = Literal["ok", "invalid", "refused", "failed"]
"""ok: the answer fits. invalid: the model answered something else. refused: the model or the server would not answer
this one (its content, a picture). failed: no answer could be had (no connection, time, errors of the server)."""
STATUSES: tuple[Status, ...] = get_args(Status)


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

    schema: JSON schema of the answer, or None for free text. choices: instead of a schema, the words of which one is to
    be answered, each with its probability. seed, temperature: of the sampling; 0 is greedy. max_tokens: of the answer.
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
        """A digest of all that the answer depends on, but for the model: pictures, words, schema and sampling."""
        parts = [part if isinstance(part, str) else {"picture": part.digest} for part in self.parts]
        values = [self.system, parts, self.schema, self.choices, self.temperature, self.seed, self.max_tokens]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    text: what the model wrote, as it came. value: the parsed answer that fits the schema, the chosen word, or the text
    where neither was asked for; None unless ok. reason: one sentence on why it is not ok. attempts: requests made.
    probabilities: of each of the question's choices, where they were asked for and can be had.
    """

    status: Status
    text: str = ""
    value: Any = None
    reason: str = ""
    attempts: int = 1
    probabilities: Mapping[str, float] | None = None


class VLM(Protocol):
    """Whoever can be asked. Bad answers and lost connections come back as an `Answer`, never as an exception."""

    @property
    def model(self) -> str:
        """Name of the model, as it stands in the provenance of its answers."""
        ...

    async def ask(self, question: Question) -> Answer:
        """The answer. Raises UsageError only for settings that cannot work at all (wrong key, a model without eyes)."""
        ...

    async def close(self) -> None:
        """Let go of connections and of the model."""
        ...
