"""What a model wrote becomes a value only where it fits."""

from __future__ import annotations

import pytest

from tagmoe.errors import UsageError
from tagmoe.vlm.answers import answer_of, chosen, parsed
from tagmoe.vlm.question import Question

SCHEMA = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}},
    "required": ["tags"],
    "additionalProperties": False,
}
GOOD = '{"tags": ["a", "b"]}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"Here it is:\n\n```json\n{GOOD}```\nDone.",
        f"Sure: {GOOD} is my answer.",
        '{"tags": ["a", "b",],}',
        '<think>\nMaybe {"tags": ["b"]}?\n</think>\n\n' + GOOD,
    ],
)
def test_the_value_is_found(text: str) -> None:
    answer = answer_of(text, Question(("?",), schema=SCHEMA))
    assert (answer.status, answer.value, answer.text) == ("ok", {"tags": ["a", "b"]}, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("no idea", "no JSON"),
        (GOOD[:-1], "no JSON"),
        (GOOD[:-4], "no JSON"),
        ('{"tags": NaN}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"tags": ["c"]}', r"\['tags'\]\[0\]"),
        ('{"tags": ["a", "a"]}', "non-unique"),
        ("{}", "required"),
        (GOOD + GOOD, "no JSON"),
        ('["a"]', "not of type"),
    ],
)
def test_what_does_not_fit_is_invalid_with_a_reason_of_one_line(text: str, reason: str) -> None:
    answer = answer_of(text, Question(("?",), schema=SCHEMA))
    assert (answer.status, answer.value, answer.text) == ("invalid", None, text)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(answer.reason)
    assert "\n" not in answer.reason
    assert len(answer.reason) < 300


@pytest.mark.parametrize("text", ["yes", "Yes", " yes.\n", '"yes"', '{"answer": "yes"}', "<think>no</think>\nyes"])
def test_a_choice_is_found(text: str) -> None:
    assert chosen(text, ("yes", "no")) == "yes"


@pytest.mark.parametrize("text", ["", "yes or no", "y", "maybe", '{"answer": "yes", "other": "no"}', "[]"])
def test_another_word_is_no_choice(text: str) -> None:
    assert answer_of(text, Question(("?",), choices=("yes", "no"))).status == "invalid"


def test_choices_that_differ_by_case_or_look_like_json() -> None:
    assert chosen("A", ("a", "A")) == "A"
    assert chosen("3", ("3", "4")) == "3"
    assert chosen("true", ("true", "false")) == "true"


def test_free_text_is_its_value() -> None:
    assert answer_of("some words", Question(("?",))).value == "some words"
    assert answer_of(" \n", Question(("?",))).status == "invalid"


def test_a_schema_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no JSON schema"):
        answer_of(GOOD, Question(("?",), schema={"type": "no type"}))


def test_parsed_tells_null_from_nothing() -> None:
    assert parsed("null") == (True, None)
    assert parsed("nil") == (False, None)
