"""Servers differ: where an answer stands, which fields they refuse and in which words, what they call an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fault_server import Server, fault_server

from tagmoe.errors import DataError
from tagmoe.vlm.answers import answer_of
from tagmoe.vlm.dialect import OPTIONAL
from tagmoe.vlm.mending import EXTRA, SINGLE, SPELLING, WRAPPED
from tagmoe.vlm.question import Answer, Question
from tagmoe.vlm.servers import ChatServers

SCHEMA = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["local editing", "b"]}}, "sure": {"type": "boolean"}},
    "required": ["tags", "sure"],
    "additionalProperties": False,
}
VALUE = {"tags": ["b"], "sure": True}
GOOD = json.dumps(VALUE)
DRAFT = '{"tags": [], "sure": false}'
ASKED = Question(("What?",), schema=SCHEMA)
CHOICE = Question(("Which?",), choices=("yes", "no"))


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(process: Server) -> Server:
    process.set(rules=[], reject=[], reject_as={"status": 400, "body": {"error": {"message": "NAME is unknown"}}})
    process.clear()
    return process


def ask(where: Server | list[str], *questions: Question, check: bool = False) -> list[Answer]:
    async def main() -> list[Answer]:
        client = ChatServers([where.url] if isinstance(where, Server) else where, "tiny-vlm", attempts=2)
        try:
            if check:
                await client.check()
            return [await client.ask(question) for question in questions]
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": "ANSWER"},
        {"content": "", "reasoning": "ANSWER"},
        {"content": " \n", "reasoning_content": f"Maybe {DRAFT}?</think>It is:\n{GOOD}"},
        {"content": f"<think>Maybe {DRAFT}</think>\n{GOOD}"},
        {"content": f"<think>Maybe {DRAFT}</think>\n{GOOD}", "reasoning_content": DRAFT},
        {"content": [{"type": "thinking", "text": DRAFT}, {"type": "text", "text": GOOD}]},
        {"content": VALUE},
        {"content": None, "tool_calls": [{"type": "function", "function": {"name": "answer", "arguments": "ANSWER"}}]},
        {"content": "I call it.", "tool_calls": [{"function": {"name": "answer", "arguments": VALUE}}]},
        {"content": None, "function_call": {"name": "answer", "arguments": "ANSWER"}},
    ],
)
def test_the_answer_is_found_where_the_server_puts_it(server: Server, message: dict[str, Any]) -> None:
    server.set(rules=[{"content": VALUE, "message": message}])
    [answer] = ask(server, ASKED)
    assert (answer.status, answer.value) == ("ok", VALUE)
    assert GOOD in answer.text


@pytest.mark.parametrize(
    "message",
    [
        {"content": None},
        {"content": None, "reasoning_content": f"It may be {GOOD}, but I am not sure and go on"},
        {"content": f"<think>It may be {GOOD}"},
        {"content": f"It may be {DRAFT} or {GOOD}."},
        {"content": None, "tool_calls": []},
    ],
)
def test_a_draft_is_no_answer_and_is_kept(server: Server, message: dict[str, Any]) -> None:
    server.set(rules=[{"message": message}])
    [answer] = ask(server, ASKED)
    assert (answer.status, answer.value) == ("invalid", None)
    assert (GOOD in answer.text) == (GOOD[2:6] in json.dumps(message))
    assert answer.reason.endswith(".")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"<think>\n{DRAFT}\n</think>\n{GOOD}", VALUE),
        (f"thoughts without a beginning {DRAFT} </think>{GOOD}", VALUE),
        (f"{GOOD}\n<think>Was it {DRAFT}?</think>", VALUE),
        (f"{GOOD}\n<thinking>Was it {DRAFT}?", VALUE),
        (f"[THINK]{DRAFT}[/THINK]{GOOD}", VALUE),
        (f"<seed:think>{DRAFT}</seed:think>{GOOD}", VALUE),
        (f"\u25c1think\u25b7{DRAFT}\u25c1/think\u25b7{GOOD}", VALUE),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}", VALUE),
        (f"A draft:\n```json\n{DRAFT}\n```\nThe answer:\n```json\n{GOOD}\n```", VALUE),
        (f"The tags {{tags}} are as in [1]: {GOOD}", VALUE),
        ('{"sure": true, "tags": ["b"], "sure": true}', VALUE),
    ],
)
def test_thoughts_and_words_around_the_answer(text: str, value: Any) -> None:
    answer = answer_of(text, ASKED)
    assert (answer.status, answer.value, answer.text) == ("ok", value, text)


def test_a_name_that_is_given_twice_with_two_values_is_no_answer() -> None:
    answer = answer_of('{"tags": [], "sure": true, "sure": false}', ASKED)
    assert (answer.status, answer.reason) == ("invalid", "The answer gives 'sure' twice, with different values.")


@pytest.mark.parametrize(
    ("text", "value", "notes"),
    [
        (GOOD, VALUE, ()),
        ('{"tags": ["Local Editing", "B"], "sure": true}', {"tags": ["local editing", "b"], "sure": True}, (SPELLING,)),
        ('{"Tags": ["local_editing"], "sure": true}', {"tags": ["local editing"], "sure": True}, (SPELLING,)),
        ('{"tags": ["b"], "sure": true, "why": "it is"}', VALUE, (EXTRA,)),
        ('{"tags": "b", "sure": true}', VALUE, (SINGLE,)),
        (f"[{GOOD}]", VALUE, (WRAPPED,)),
        (json.dumps(GOOD), VALUE, (WRAPPED,)),
        (f'<tool_call>{{"name": "answer", "arguments": {GOOD}}}</tool_call>', VALUE, (WRAPPED,)),
    ],
)
def test_plain_slips_are_mended_and_counted(text: str, value: Any, notes: tuple[str, ...]) -> None:
    answer = answer_of(text, ASKED)
    assert (answer.status, answer.value, answer.text, answer.notes) == ("ok", value, text, notes)


@pytest.mark.parametrize("text", ['{"tags": ["c"], "sure": true}', '{"tags": ["b"]}', '{"tags": ["b"], "sure": "yes"}'])
def test_nothing_is_guessed(text: str) -> None:
    assert answer_of(text, ASKED).status == "invalid"


def test_a_choice_in_another_case_is_counted() -> None:
    assert answer_of("Yes", CHOICE).notes == (SPELLING,)
    assert answer_of("yes", CHOICE).notes == ()


WORDINGS = [
    (400, {"error": {"message": "Unsupported parameter: 'NAME' is not supported with this model.", "param": "NAME"}}),
    (400, {"error": {"message": "Unsupported value.", "type": "invalid_request_error", "param": "NAME"}}),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "NAME"], "msg": "Extra inputs are not permitted"}]}),
    (422, {"detail": "Extra inputs are not permitted"}),
    (501, {"error": "NAME is not implemented"}),
    (501, {}),
    (400, {}),
    (400, {"message": "unsupported parameter"}),
    (400, "unknown argument `NAME`"),
    (500, {"error": {"message": "create() got an unexpected keyword argument 'NAME'"}}),
]
FIELDS = ["temperature", "chat_template_kwargs", "seed", "max_tokens", "response_format"]


@pytest.mark.parametrize(("status", "body"), WORDINGS)
@pytest.mark.parametrize("name", FIELDS)
def test_a_refused_field_is_left_out_for_the_run(server: Server, name: str, status: int, body: Any) -> None:
    server.set(reject=[name], reject_as={"status": status, "body": body}, rules=[{"content": VALUE}])
    first, second = ask(server, ASKED, Question(("What else?",), schema=SCHEMA))
    assert (first.status, second.status) == ("ok", "ok")
    assert first.notes == second.notes == (f"asked without {name}, which the server refuses",)
    # the first question took an attempt for each field at most, the second one alone
    assert server.counts()["requests"] <= len(OPTIONAL) + 2


def test_several_fields_that_are_not_named_are_found_together(server: Server) -> None:
    body = {"detail": "Extra inputs are not permitted"}
    server.set(reject=["seed", "temperature"], reject_as={"status": 422, "body": body}, rules=[{"content": VALUE}])
    first, second = ask(server, ASKED, ASKED)
    assert (first.status, second.status) == ("ok", "ok")
    assert server.counts()["requests"] <= 16


def test_a_word_of_an_instruction_is_no_field(server: Server) -> None:
    body = {"error": {"message": "The text 'plant a seed' was flagged"}}
    server.set(rules=[{"contains": "a seed", "status": 400, "body": body}, {"content": VALUE}])
    refused, ok = ask(server, Question(("plant a seed",), schema=SCHEMA), ASKED)
    assert (refused.status, ok.status, ok.notes) == ("refused", "ok", ())
    assert "flagged" in refused.text
    assert server.counts()["requests"] == 2


def test_a_question_that_is_too_long_costs_no_field(server: Server) -> None:
    body = {"error": {"message": "max_tokens is too large: the context length is 4096", "param": "max_tokens"}}
    server.set(rules=[{"contains": "long", "status": 400, "body": body}, {"content": VALUE}])
    refused, ok = ask(server, Question(("long",), schema=SCHEMA), ASKED)
    assert (refused.status, ok.status, ok.notes) == ("refused", "ok", ())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, "refused"),
        ({"error": {"message": "overloaded"}}, "failed"),
    ],
)
def test_an_error_that_comes_as_a_success_is_an_error(server: Server, body: Any, status: str) -> None:
    server.set(rules=[{"status": 200, "body": body}])
    [answer] = ask(server, ASKED)
    assert answer.status == status
    assert body["error"]["message"] in answer.reason


@pytest.mark.parametrize(("status", "words"), [(401, "key"), (404, "model")])
def test_a_key_or_model_that_is_lost_after_the_check_is_no_usage_error(server: Server, status: int, words: str) -> None:
    server.set(rules=[{"after": 1, "status": status, "body": {"error": {"message": "model not found"}}}])
    with pytest.raises(DataError, match=words):
        ask(server, CHOICE, CHOICE, check=True)
    assert server.counts()["requests"] == 2


def together(urls: list[str], count: int) -> list[Answer]:
    async def main() -> list[Answer]:
        client = ChatServers(urls, "tiny-vlm", attempts=3, concurrency=8)
        try:
            return await asyncio.gather(
                *(client.ask(Question((f"Question {number}.",), schema=SCHEMA)) for number in range(count))
            )
        finally:
            await client.close()

    return asyncio.run(main())


def test_questions_that_are_asked_together_learn_from_one(server: Server) -> None:
    body = {"detail": "Extra inputs are not permitted"}
    server.set(reject=["response_format"], reject_as={"status": 422, "body": body}, rules=[{"content": VALUE}])
    assert {answer.status for answer in together([server.url], 24)} == {"ok"}
    assert server.counts()["requests"] <= 24 + 8 + 2 * len(OPTIONAL)


def test_words_that_change_cost_few_trials(server: Server) -> None:
    server.set(
        rules=[
            {"contains": f"Question {n}.", "status": 400, "body": {"error": f"unknown argument {'x' * n}"}}
            for n in range(24)
        ]
    )
    assert {answer.status for answer in together([server.url], 24)} == {"refused"}
    assert server.counts()["requests"] <= 24 + 3 * 2 * len(OPTIONAL)


@pytest.mark.slow
def test_what_one_server_refuses_another_may_answer(server: Server) -> None:
    with fault_server(rules=[{"status": 402, "body": {"error": {"message": "no credit"}}}]) as poor:
        server.set(rules=[{"content": VALUE}])
        assert {answer.status for answer in together([poor.url, server.url], 40)} == {"ok"}
        poor.clear()
        # of questions one after the other it gets a few only
        assert {answer.status for answer in ask([poor.url, server.url], *[ASKED] * 20)} == {"ok"}
        assert poor.counts()["requests"] < 10
        server.set(rules=[{"status": 400, "body": {"error": "flagged"}}])
        assert {answer.status for answer in together([poor.url, server.url], 4)} == {"refused"}
