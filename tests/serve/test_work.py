"""The queue: what runs together, what a full one answers, who leaves, and the end of the server."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from support.serving import PlainPainter, Running, serving

from tagmoe.serve.limits import Limits


def ask(server: Running, prompt: str, **fields: object) -> object:
    return server.client().images.generate(prompt=prompt, model="m", extra_body=fields)


def wait_for(what: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)
    assert what()  # type: ignore[operator]


def test_requests_of_one_key_run_together_and_others_do_not() -> None:
    painter = PlainPainter(gate=threading.Event())
    with serving(painter, limits=Limits(wait=0.01)) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server, "first")
        wait_for(lambda: painter.batches)
        waiting = [pool.submit(ask, server, f"p{n}", cfg=1 + n % 2, seed=n) for n in range(6)]
        wait_for(lambda: len(server.engine._waiting) == 6)
        painter.gate.set()
        assert [job.result() for job in [first, *waiting]]
        assert server.engine.places == 0
    assert len(painter.batches) == 3
    assert {len({seed % 2 for _, seed in batch}) for batch in painter.batches} == {1}


def test_two_equal_requests_at_once_are_answered_once_each_with_their_own_seed() -> None:
    painter = PlainPainter(seconds=0.02)
    with serving(painter, limits=Limits(wait=0.5, batch=2)) as server, ThreadPoolExecutor(2) as pool:
        found = [job.result() for job in [pool.submit(ask, server, "twin") for _ in range(2)]]
    (batch,) = painter.batches
    seeds = [answer.data[0].seed for answer in found]
    assert len(set(seeds)) == 2
    assert sorted(seeds) == sorted(seed for _, seed in batch)
    assert found[0].data[0].b64_json != found[1].data[0].b64_json


def test_a_full_queue_answers_429_with_a_time_and_the_client_comes_again() -> None:
    painter = PlainPainter(gate=threading.Event())
    with serving(painter, limits=Limits(queue=1, batch=1, wait=0)) as server, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(ask, server, "held") for _ in range(2)]
        wait_for(lambda: server.engine.places == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(server, "too many")
        assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("queue_full", "1")
        painter.gate.set()
        again = server.client(max_retries=5).images.generate(prompt="later", model="m")
        assert again.data
        assert all(job.result() for job in held)
        with pytest.raises(openai.RateLimitError):
            server.client().images.generate(prompt="three at once", model="m", n=3)
        assert server.engine.places == 0


def test_a_full_queue_rejects_before_the_body_comes_and_before_a_picture_is_decoded() -> None:
    painter = PlainPainter(gate=threading.Event())
    with serving(painter, limits=Limits(queue=2, batch=1, wait=0)) as server, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(ask, server, "held") for _ in range(2)]
        wait_for(lambda: server.engine.places == 2)
        # There is one place, and it asks for two; its picture, which is none, would be refused with 400.
        with pytest.raises(openai.RateLimitError):
            server.client().images.edit(model="m", image=("x.png", b"no picture"), prompt="two", n=2)
        assert server.engine.places == 2
        held.append(pool.submit(ask, server, "held"))
        wait_for(lambda: server.engine.places == 3)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            plain.sendall(
                b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 30000000\r\n\r\n"
            )
            assert plain.recv(100).startswith(b"HTTP/1.1 429 ")
        painter.gate.set()
        assert all(job.result() for job in held)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_at_the_next_step(stream: bool) -> None:
    painter = PlainPainter(seconds=0.05)
    with serving(painter, limits=Limits(wait=0)) as server:
        body = b'{"prompt": "gone", "steps": 100, "stream": %s}' % (b"true" if stream else b"false")
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            wait_for(lambda: painter.steps >= 2)
        wait_for(lambda: server.engine.places == 0)
        steps = painter.steps
        assert ask(server, "next", steps=1)
        assert painter.steps <= steps + 3 < 100
        left = server.app.state.server.metrics.left
        assert left._value.get() == 1


def test_a_request_over_its_time_ends_and_is_not_to_be_repeated() -> None:
    painter = PlainPainter(seconds=0.05)
    with serving(painter, limits=Limits(seconds=0.2)) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.client(max_retries=3).images.generate(prompt="slow", model="m", extra_body={"steps": 100})
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        wait_for(lambda: server.engine.places == 0)
        assert len(painter.batches) == 1


def test_a_request_that_breaks_does_not_hurt_those_drawn_with_it() -> None:
    painter = PlainPainter(seconds=0.02, fails="break")
    with serving(painter, limits=Limits(wait=1, batch=3)) as server, ThreadPoolExecutor(3) as pool:
        jobs = {name: pool.submit(ask, server, name) for name in ("a", "break", "c")}
        assert jobs["a"].result()
        assert jobs["c"].result()
        with pytest.raises(openai.InternalServerError):
            jobs["break"].result()
    assert [len(batch) for batch in painter.batches] == [3, 1, 1, 1]


def test_what_runs_is_finished_before_the_server_ends() -> None:
    painter = PlainPainter(seconds=0.1)
    with serving(painter, drain=20) as server, ThreadPoolExecutor(1) as pool:
        job = pool.submit(ask, server, "last")
        wait_for(lambda: painter.steps >= 1)
        server.server.should_exit = True
        assert job.result()
        wait_for(lambda: not any(thread.name == "painter" for thread in threading.enumerate()))
        with pytest.raises(openai.APIConnectionError):
            ask(server, "too late")
