"""A VLM that says what a test tells it, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tagmoe.vlm.question import Answer, Question


def reply(rewritten: str, **fields: Any) -> dict[str, Any]:
    """An answer that fits the schema of rewriting, but for `fields`."""
    return {
        "rewritten": rewritten,
        "task_guess": {"scope": "local editing", "types": ["object editing"], "preservation": ["style preservation"]},
        "kept_constraints": [],
        "language": "English",
        "changed": True,
    } | fields


class ScriptedVLM:
    """Says its replies one after the other, the last one for ever. A value is ok, an Answer stands as it is, an
    exception is raised, a number is a wait of so many seconds before the next."""

    model = "scripted"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.questions: list[Question] = []
        self.closed = False

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        while True:
            said = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if isinstance(said, BaseException):
                raise said
            if isinstance(said, Answer):
                return said
            if isinstance(said, (int, float)):
                await asyncio.sleep(said)
                continue
            return Answer("ok", text=json.dumps(said), value=said)

    async def close(self) -> None:
        self.closed = True


def texts(question: Question) -> Sequence[str]:
    """The words of a question's message."""
    return [part for part in question.parts if isinstance(part, str)]
