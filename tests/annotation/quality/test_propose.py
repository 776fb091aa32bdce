"""What is asked for better guidance, and what is made of the answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from tagmoe.annotation.quality.propose import (
    MAX_GUIDANCE,
    MAX_MISTAKES,
    Mistake,
    next_version,
    proposal_question,
    propose,
    worst_tags,
)
from tagmoe.errors import DataError
from tagmoe.tags import tag
from tagmoe.vlm.question import Answer, Question

F1 = {"local editing": 0.9, "pose editing": 0.2, "style transfer": 1.0, "face preservation": 0.2}


class Scripted:
    """Answers with what it was given."""

    model = "scripted"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def ask(self, question: Question) -> Answer:
        return self._answer

    async def close(self) -> None:
        pass


def question() -> Question:
    mistakes = {"pose editing": [Mistake(f"make them wave {n}", n % 2 == 0) for n in range(40)]}
    return proposal_question({"pose editing": "Only bodies.", "face preservation": ""}, F1, mistakes)


def test_the_worst_tags_are_asked_about_with_their_mistakes():
    assert worst_tags(F1, 2) == ["face preservation", "pose editing"]
    assert worst_tags(F1, 9) == ["face preservation", "pose editing", "local editing"]
    asked = question()
    text = asked.parts[0]
    assert tag("pose editing").definition in text
    assert "Only bodies." in text
    assert "(none)" in text
    assert text.count("make them wave") == 2 * MAX_MISTAKES
    assert asked.schema["required"] == ["pose editing", "face preservation"]
    json.dumps(asked.schema)


def test_an_answer_that_fits_is_the_guidance():
    value = {"pose editing": " A person,\n face or animal moves. ", "face preservation": "x" * 2000, "other": "y"}
    found = asyncio.run(propose(Scripted(Answer("ok", value=value)), question()))
    assert found == {"pose editing": "A person, face or animal moves.", "face preservation": "x" * MAX_GUIDANCE}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer("refused", reason="It would not."), "refused: It would not"),
        (Answer("failed", reason="No connection."), "failed: No connection"),
        (Answer("ok", value={"pose editing": "words"}), "'face preservation'"),
    ],
)
def test_an_answer_that_does_not_fit_is_said(answer, said):
    with pytest.raises(DataError, match=said):
        asyncio.run(propose(Scripted(answer), question()))


@pytest.mark.parametrize(
    ("version", "after"), [("1", "2"), ("9", "10"), ("1.9", "1.10"), ("2a", "3a"), ("old", "old-2")]
)
def test_the_version_is_raised(version, after):
    assert next_version(version) == after
