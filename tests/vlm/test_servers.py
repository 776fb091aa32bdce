"""The client against a real server process that fails on purpose: what is asked again, what is said, what leaks."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from PIL import Image
from support.fault_server import LOST, Server, fault_server

from tagmoe.errors import UsageError
from tagmoe.vlm import endpoints, servers
from tagmoe.vlm.question import Answer, Attachment, Question
from tagmoe.vlm.servers import ChatServers, server_key

Result = TypeVar("Result")
SCHEMA = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}}, "sure": {"type": "boolean"}},
    "required": ["tags", "sure"],
    "additionalProperties": False,
}
KEY = "sk-a-key/that+nobody=may.see"
DEFAULTS: dict[str, Any] = {
    "latency": 0.0,
    "models": ["tiny-vlm"],
    "key": None,
    "vision": True,
    "faults": {},
    "retry_after": "0.05",
    "reject": [],
    "logprobs": True,
    "rules": [],
}


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(process: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(endpoints, "FIRST_REST", 0.1)
    process.set(**DEFAULTS)
    process.clear()
    return process


def picture(colour: str = "red", kind: str = "PNG") -> Attachment:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), colour).save(buffer, kind)
    return Attachment(buffer.getvalue())


def question(number: int = 0, **changes: Any) -> Question:
    return Question((picture(), picture("blue", "JPEG"), f"Question {number}."), schema=SCHEMA, **changes)


def words(number: int = 0) -> Question:
    return Question((f"Question {number}.",), schema=SCHEMA)


def run(
    urls: str | list[str], work: Callable[[ChatServers], Awaitable[Result]], *, model: str = "tiny-vlm", **settings: Any
) -> Result:
    async def main() -> Result:
        client = ChatServers([urls] if isinstance(urls, str) else urls, model, **settings)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def ask(urls: str | list[str], *questions: Question, **settings: Any) -> list[Answer]:
    return run(urls, lambda client: asyncio.gather(*(client.ask(each) for each in questions)), **settings)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_pictures_words_and_schema_reach_the_server_and_its_answer_is_checked(server: Server) -> None:
    asked = Question(
        ("First:", picture(), "second:", picture("blue", "WEBP"), 'a "quote" \u00e9\n'), "Be brief.", SCHEMA
    )
    server.set(
        rules=[
            {
                "contains": 'a "quote" \u00e9\n',
                "picture": asked.parts[3].digest,
                "content": {"tags": ["b"], "sure": True},
            }
        ]
    )  # type: ignore[union-attr]
    [answer] = ask(server.url, asked)
    assert answer == Answer("ok", '{"tags": ["b"], "sure": true}', {"tags": ["b"], "sure": True}, tokens=(10, 5))
    counts = server.counts()
    assert (counts["requests"], counts["images"], counts["schemas"]) == (1, 2, 1)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("fault", ["408", "429", "500", "502", "503", "reset", "half_body", "not_json", "hang"])
def test_what_fails_on_the_way_is_asked_again(server: Server, fault: str) -> None:
    server.set(rules=[{"fault": fault, "times": 2}])
    [answer] = ask(server.url, question(), timeout=0.5, attempts=3)
    assert (answer.status, answer.attempts) == ("ok", 3)
    assert server.counts()["faults"] == {fault: 2}


@pytest.mark.parametrize("fault", ["429", "500", "reset", "half_body", "not_json", "hang"])
def test_attempts_are_bounded_and_the_reason_names_the_server(server: Server, fault: str) -> None:
    server.set(faults={fault: 1.0})
    [answer] = ask(server.url, question(), timeout=0.3, attempts=2)
    assert (answer.status, answer.value, answer.attempts) == ("failed", None, 2)
    assert server.url in answer.reason
    assert answer.reason.endswith(".")
    assert server.counts()["requests"] == 2


@pytest.mark.parametrize("fault", ["400", "413", "422", "refusal", "content_filter"])
def test_a_refused_question_is_asked_once_and_others_go_on(server: Server, fault: str) -> None:
    server.set(rules=[{"contains": "Question 1.", "fault": fault}])
    answers = ask(server.url, *map(question, range(4)))
    assert [answer.status for answer in answers] == ["ok", "refused", "ok", "ok"]
    assert answers[1].reason
    assert server.counts()["requests"] == 4


@pytest.mark.parametrize("fault", ["half_json", "wrong_schema", "empty", "truncated"])
def test_another_answer_is_invalid_and_kept(server: Server, fault: str) -> None:
    server.set(rules=[{"fault": fault, "content": {"tags": ["a"], "sure": False}}])
    [answer] = ask(server.url, question(max_tokens=77))
    assert (answer.status, answer.value, answer.attempts) == ("invalid", None, 1)
    assert answer.reason
    assert bool(answer.text) == (fault != "empty")
    if fault == "truncated":
        assert "77 tokens" in answer.reason


def test_a_whole_value_that_ends_at_the_limit_is_invalid_too(server: Server) -> None:
    # half of the text is JSON by chance; what the model would have gone on to say is not known
    server.set(rules=[{"fault": "truncated", "content": '{"tags": ["a"], "sure": true}' + " " * 29}])
    assert ask(server.url, question())[0].status == "invalid"


def test_a_code_fence_is_looked_through(server: Server) -> None:
    server.set(faults={"fenced": 1.0})
    assert ask(server.url, question())[0].status == "ok"


def test_a_server_that_ignores_the_schema_gives_invalid_rows(server: Server) -> None:
    server.set(rules=[{"contains": "Question 0.", "content": "I see a cat."}])
    assert [answer.status for answer in ask(server.url, question(0), question(1))] == ["invalid", "ok"]


@pytest.mark.parametrize("name", ["response_format", "seed"])
def test_a_field_that_the_server_does_not_know_is_left_out_from_then_on(server: Server, name: str) -> None:
    server.set(reject=[name])
    first, second = run(server.url, lambda client: _in_turn(client, question(0), question(1)))
    if name == "seed":
        assert (first.status, second.status) == ("ok", "ok")
    assert (first.attempts, second.attempts) == (1, 1)
    counts = server.counts()
    assert counts["requests"] == 3
    if name == "response_format":
        # then the schema is said in words, at the end
        assert sum("additionalProperties" in asked["text"] for asked in counts["keys"].values()) == 2


def test_a_key_that_a_model_repeats_is_not_kept(server: Server) -> None:
    server.set(rules=[{"content": {"answer": "my key is sk-very-secret"}}], key="sk-very-secret")
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    asked = Question(("Which key?",), schema=schema)
    [answer] = run(server.url, lambda client: _in_turn(client, asked), key="sk-very-secret")
    assert answer.value == {"answer": "my key is ***"}
    assert "sk-very" not in answer.text
    server.set(key=None)


async def _in_turn(client: ChatServers, *questions: Question) -> list[Answer]:
    return [await client.ask(each) for each in questions]


@pytest.mark.slow
def test_retry_after_is_kept_in_seconds_and_as_a_date(server: Server) -> None:
    server.set(rules=[{"fault": "429", "times": 1}], retry_after="0.6")
    started = time.monotonic()
    assert ask(server.url, question(0))[0].attempts == 2
    assert 0.6 <= time.monotonic() - started < 3
    server.set(retry_after="date:2.5")  # dates are whole seconds
    started = time.monotonic()
    assert ask(server.url, question(1))[0].attempts == 2
    assert 1.4 <= time.monotonic() - started < 5


@pytest.mark.parametrize("value", [None, "", "soon", "-3", "nan", "inf", "Wed, 99 Nov"])
def test_a_retry_after_of_nonsense_is_none(value: str | None) -> None:
    assert servers._retry_after(value) == 0


@pytest.mark.slow
def test_never_more_in_flight_than_allowed_and_never_fewer_when_there_is_work(server: Server) -> None:
    server.set(latency=0.05)
    answers = ask(server.url, *map(words, range(40)), concurrency=5)
    assert {answer.status for answer in answers} == {"ok"}
    assert server.counts()["most_in_flight"] == 5


@pytest.mark.slow
def test_a_fifth_of_faults_loses_and_doubles_nothing(server: Server) -> None:
    server.set(faults=dict.fromkeys(("408", "429", "500", "502", "503", *LOST[1:]), 0.025))
    answers = ask(server.url, *map(words, range(150)), concurrency=32, attempts=8)
    assert Counter(answer.status for answer in answers) == {"ok": 150}
    assert any(answer.attempts > 1 for answer in answers)
    counts = server.counts()
    assert (counts["successes"], counts["repeats_after_success"], len(counts["keys"])) == (150, 0, 150)


def test_choices_have_probabilities_where_the_server_gives_them(server: Server) -> None:
    asked = Question((picture(), "Is it local?"), choices=("yes", "no"), max_tokens=4)
    server.set(rules=[{"content": "no", "probabilities": {"no": 0.5, " No": 0.1, "Yes": 0.2, "maybe": 0.2}}])
    [answer] = ask(server.url, asked)
    assert (answer.status, answer.value) == ("ok", "no")
    assert answer.probabilities == pytest.approx({"yes": 0.25, "no": 0.75})
    server.set(logprobs=False)
    [answer] = ask(server.url, asked)
    assert (answer.value, answer.probabilities) == ("no", None)
    assert server.counts()["choices"] == 2


def test_choices_are_held_by_a_schema_where_the_server_knows_no_choices(server: Server) -> None:
    server.set(reject=["structured_outputs"])
    answers = run(
        server.url,
        lambda client: _in_turn(client, *(Question((f"Is it {n}?",), choices=("yes", "no")) for n in range(3))),
    )
    assert {answer.status for answer in answers} == {"ok"}
    assert {answer.value for answer in answers} <= {"yes", "no"}
    counts = server.counts()
    assert (counts["requests"], counts["choices"], counts["schemas"]) == (4, 1, 3)


def test_no_server_is_one_sentence_before_any_work_and_a_failed_row_in_it() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UsageError, match=rf"No server answers at {url}.*--endpoint"):
        run(url, lambda client: client.check())
    [answer] = ask(url, question(), attempts=1)
    assert answer.status == "failed"
    assert "No server answers" in answer.reason


def test_a_wrong_model_is_told_with_those_that_are_there(server: Server) -> None:
    server.set(models=["other-vlm", "third"])
    for work in (lambda client: client.check(), lambda client: client.ask(question())):
        with pytest.raises(UsageError, match="no model 'tiny-vlm'; it has other-vlm, third"):
            run(server.url, work)


def test_a_model_without_eyes_is_told_at_the_first_picture(server: Server) -> None:
    server.set(vision=False)
    with pytest.raises(UsageError, match=r"'tiny-vlm' .* takes no pictures"):
        ask(server.url, question())
    assert ask(server.url, words())[0].status == "ok"


def test_an_address_that_is_no_chat_completions(server: Server) -> None:
    wrong = server.url.removesuffix("/v1") + "/v2"
    with pytest.raises(UsageError, match=r"answered 404.*--endpoint"):
        ask(wrong, question())


def test_a_check_that_passes_asks_nothing(server: Server) -> None:
    run(server.url, lambda client: client.check())
    assert server.counts()["requests"] == 0


@pytest.mark.parametrize("sent", [None, KEY])
def test_a_wrong_key_is_told_and_never_shown(
    server: Server, sent: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    # this server repeats the key that it got, as OpenAI's does in part
    server.set(key="another")
    caplog.set_level(logging.DEBUG)
    for work in (lambda client: client.check(), lambda client: client.ask(question())):
        with pytest.raises(UsageError, match="TAGMOE_VLM_KEY") as caught:
            run(server.url, work, key=sent)
        assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in caplog.text


def test_the_right_key_is_sent_and_shown_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.set(
        key=KEY, rules=[{"contains": "Question 1.", "fault": "400"}, {"contains": "Question 2.", "fault": "500"}]
    )
    caplog.set_level(logging.DEBUG)
    answers = ask(server.url, *map(question, range(3)), key=KEY, attempts=2)
    assert [answer.status for answer in answers] == ["ok", "refused", "failed"]
    assert KEY not in str(answers) + caplog.text
    client = ChatServers([server.url], "tiny-vlm", key=KEY)
    assert KEY not in repr(client) + str(client._endpoints)
    assert client._message(f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()) == ": bad key ***"


def test_keys_where_they_do_not_belong_are_refused_and_not_repeated() -> None:
    for make in (
        lambda: ChatServers([f"http://user:{KEY.replace('/', '-')}@127.0.0.1/v1"], "tiny-vlm"),
        lambda: ChatServers([f"http://127.0.0.1/v1?key={KEY}"], "tiny-vlm"),
        lambda: ChatServers(["http://127.0.0.1/v1"], "tiny-vlm", key=f"{KEY}\r\nX-Other: 1"),
    ):
        with pytest.raises(UsageError, match="TAGMOE_VLM_KEY") as caught:
            make()
        assert "that+nobody" not in str(caught.value)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAGMOE_VLM_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert server_key() is None
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    assert server_key() == "second"
    monkeypatch.setenv("TAGMOE_VLM_KEY", " first\n")
    assert server_key() == "first"


def test_one_dead_of_two_fails_nothing_and_is_left_alone(server: Server) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"

    async def work(client: ChatServers) -> list[Answer]:
        await client.check()
        return await asyncio.gather(*(client.ask(words(number)) for number in range(60)))

    answers = run([dead, server.url], work, concurrency=8)
    assert Counter(answer.status for answer in answers) == {"ok": 60}
    assert sum(answer.attempts - 1 for answer in answers) <= 12
    assert server.counts()["requests"] == 60


@pytest.mark.slow
def test_load_is_shared_and_a_server_that_ails_gets_little(server: Server) -> None:
    with fault_server() as other:
        both = [server.url, other.url]
        for each in (server, other):
            each.set(latency=0.02)
        ask(both, *map(words, range(40)), concurrency=8)
        assert min(each.counts()["requests"] for each in (server, other)) >= 14
        server.clear()
        server.set(faults={"500": 1.0})
        answers = ask(both, *map(words, range(100, 160)), concurrency=8)
        assert Counter(answer.status for answer in answers) == {"ok": 60}
        assert server.counts()["requests"] < 25


def test_a_server_killed_in_the_middle_fails_nothing(server: Server) -> None:
    with fault_server(latency=0.02) as other:

        async def work(client: ChatServers) -> list[Answer]:
            asked = [asyncio.ensure_future(client.ask(words(number))) for number in range(60)]
            await asked[10]
            other.process.kill()
            return await asyncio.gather(*asked)

        answers = run([server.url, other.url], work, concurrency=8)
    assert Counter(answer.status for answer in answers) == {"ok": 60}


def test_a_server_that_comes_back_is_asked_again(server: Server) -> None:
    server.set(faults={"reset": 1.0})

    async def work(client: ChatServers) -> Answer:
        asked = asyncio.ensure_future(client.ask(words()))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.set, faults={})
        return await asked

    answer = run(server.url, work, attempts=10)
    assert answer.status == "ok"
    assert answer.attempts > 1


def test_who_stops_waiting_frees_the_place(server: Server) -> None:
    server.set(rules=[{"contains": "Question 0.", "fault": "hang"}])

    async def work(client: ChatServers) -> Answer:
        first = asyncio.ensure_future(client.ask(words(0)))
        await asyncio.sleep(0.2)
        first.cancel()
        return await client.ask(words(1))

    assert run(server.url, work, concurrency=1, timeout=60).status == "ok"


def test_one_client_works_in_one_loop_after_the_other(server: Server) -> None:
    client = ChatServers([server.url], "tiny-vlm")

    async def once(number: int) -> Answer:
        try:
            return await client.ask(words(number))
        finally:
            await client.close()

    assert [asyncio.run(once(number)).status for number in range(3)] == ["ok"] * 3


def test_bytes_that_are_no_picture_are_refused_without_a_request(server: Server) -> None:
    answers = ask(server.url, Question((Attachment(b"GIF89a..."), "What?"), schema=SCHEMA), question())
    assert [answer.status for answer in answers] == ["refused", "ok"]
    assert server.counts()["requests"] == 1
