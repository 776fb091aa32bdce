"""An images server as the editor, over real HTTP on loopback: retries, waits, refusals, and never a placeholder."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images_server import ImagesServer as Loopback
from support.images_server import images_server
from support.prepared_benchmarks import tagworld_bench

from tagmoe.errors import UsageError
from tagmoe.evaluate.answers.answer import AskedEditor, NoMoreAnswers
from tagmoe.evaluate.answers.server import ImagesServer
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.run_folder import RunFacts, read_run

REFUSAL = {
    "status": 400,
    "body": {"error": {"message": "Your request was rejected by the safety system.", "code": "moderation_blocked"}},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld", 1)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with images_server() as running:
        yield running


def editor(server: Loopback, **options: object) -> ImagesServer:
    return ImagesServer(server.url, "tiny-editor", timeout=5, **options)  # type: ignore[arg-type]


def run(bench: Prepared, asked: ImagesServer, folder: Path, *, threads: int = 4, tasks: list[str] | None = None):
    answers = AskedEditor(asked, bench, asked.facts())
    return generate(bench, answers, RunFacts.of(bench, answers, 5), folder, batch=1, threads=threads, tasks=tasks)


def first_of(bench: Prepared, task: str) -> tuple[int, Case]:
    return bench.chosen([task], 1)[0]


def test_each_case_is_asked_once_with_its_pictures_and_its_seed(bench: Prepared, server: Loopback, tmp_path) -> None:
    server.latency = 0.02
    made = run(bench, editor(server), tmp_path / "many")
    assert made.counts == {"ok": len(bench.cases)}
    assert 1 < server.most_in_flight <= 4
    by_words = {request["prompt"]: request for request in server.requests}
    assert len(server.requests) == len(by_words) == len(bench.cases)
    for position, case in enumerate(bench.cases):
        request = by_words[case.instruction]
        assert int(request["seed"]) == 5 + position
        assert request["model"] == "tiny-editor"
        names = [case.source] if case.source else list(case.refs)
        assert request["path"] == ("/v1/images/edits" if names else "/v1/images/generations")
        assert [size for _, size in request.get("pictures", [])] == [bench.picture(str(name)).size for name in names]
    alone = run(bench, editor(server), tmp_path / "one", threads=1)
    assert alone.digest == made.digest


def test_several_pictures_go_in_their_order_and_fields_as_given(server: Loopback, bench: Prepared) -> None:
    pictures = [bench.picture(str(first_of(bench, "add")[1].source)).resize((8 * n, 8)) for n in (1, 2, 3)]
    editor(server, fields={"seed": None, "quality": "high"})(["join"], [pictures], [1])
    (request,) = server.requests
    assert request["pictures"] == [("image[]", (8, 8)), ("image[]", (16, 8)), ("image[]", (24, 8))]
    assert request["quality"] == "high"
    assert "seed" not in request


def test_what_passes_is_asked_again_after_the_time_that_the_server_names(
    bench, server: Loopback, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    words = first_of(bench, "add")[1].instruction
    server.faults = {words: [{"status": 429, "headers": {"Retry-After": "0.4"}}, 500, 503]}
    started = time.monotonic()
    made = run(bench, editor(server), tmp_path / "run", tasks=["add"])
    assert made.counts == {"ok": 1}
    assert server.asked[words] == 4
    assert time.monotonic() - started > 0.4


def test_a_refusal_is_a_failure_with_the_words_of_the_server_and_no_picture(bench, server: Loopback, tmp_path) -> None:
    refused, broken = first_of(bench, "add")[1], first_of(bench, "move")[1]
    no_picture = base64.b64encode(b"rubbish").decode()
    server.faults = {
        refused.instruction: [REFUSAL],
        broken.instruction: [json.dumps({"created": 0, "data": [{"b64_json": no_picture}]}).encode()],
        first_of(bench, "remove")[1].instruction: [
            json.dumps({"created": 0, "data": [{"url": "http://x/y"}]}).encode()
        ],
        first_of(bench, "hair")[1].instruction: [json.dumps({"created": 0, "data": []}).encode()],
        first_of(bench, "style")[1].instruction: [500] * 2,
    }
    made = run(bench, editor(server, attempts=2), tmp_path / "run")
    reasons = {answer.id.split("-")[0]: answer.reason for answer in made.failures}
    assert made.counts == {"ok": len(bench.cases) - 5, "failed": 5}
    assert all(answer.file is None for answer in made.failures)
    assert len(list((tmp_path / "run" / "outputs").iterdir())) == len(bench.cases) - 5
    assert reasons["add"] == "The server refused it (status 400: Your request was rejected by the safety system.)"
    assert reasons["move"] == "The server's picture is damaged (no picture)"
    assert "--set response_format=b64_json" in reasons["remove"]
    assert reasons["hair"] == "The server's answer holds no picture"
    assert reasons["style"] == "The server failed (status 500: error 500)"
    assert server.asked[refused.instruction] == 1, "no retry mends a refusal"
    again = run(bench, editor(server), tmp_path / "run")
    assert (again.new, again.counts) == (5, {"ok": len(bench.cases)})


def test_a_server_is_checked_before_the_first_case(server: Loopback) -> None:
    editor(server).check()
    with pytest.raises(UsageError, match=r"has no model 'other'; it has tiny-editor"):
        ImagesServer(server.url, "other").check()
    server.models = None
    ImagesServer(server.url, "other").check()
    server.key = "secret-key"
    with pytest.raises(UsageError, match="does not accept the key; set TAGMOE_VLM_KEY"):
        editor(server, key="wrong-key").check()
    editor(server, key="secret-key").check()
    with pytest.raises(UsageError, match="does not answer"):
        ImagesServer("http://127.0.0.1:1/v1", "tiny-editor").check()
    with pytest.raises(UsageError, match="is no address"):
        ImagesServer("127.0.0.1:1", "tiny-editor")
    assert "secret" not in str(editor(server, key="secret-key").facts())


@pytest.mark.parametrize("threads", [1, 4])
def test_a_server_that_answers_nobody_stops_the_run_and_what_is_there_stays(bench, tmp_path, threads: int) -> None:
    """Otherwise thousands of cases would fail one by one, each after all its attempts."""
    with images_server() as server:
        asked = editor(server, attempts=1)
        unpaid = {
            "status": 429,
            "body": {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}},
        }
        server.faults = {bench.cases[9].instruction: [unpaid]}
        with pytest.raises(NoMoreAnswers, match=r"answers no more \(You exceeded your quota\)"):
            run(bench, asked, tmp_path / "run", threads=threads)
        assert len(server.requests) < len(bench.cases)
        run(bench, asked, tmp_path / "run", tasks=["add"])
    with pytest.raises(NoMoreAnswers, match="is gone"):
        run(bench, asked, tmp_path / "run", threads=threads)
    kept = read_run(tmp_path / "run", bench).answers.values()
    assert 1 <= len(kept) < len(bench.cases)
    assert {answer.status for answer in kept} == {"ok"}
