"""Bodies that nobody should send: no answer is a fault of the server, and no file handle stays open."""

from __future__ import annotations

import os
import random

import pytest
from support.malformed import send
from support.serving import PlainPainter, serving

from tagmoe.serve.limits import Limits


@pytest.mark.slow_but_first
@pytest.mark.parametrize("bodies", [50, 1000])
def test_no_body_is_a_fault_of_the_server_and_no_handle_stays(bodies: int) -> None:
    dice = random.Random(bodies)
    with serving(PlainPainter(), limits=Limits(steps=4, body=50_000, prompt=5000)) as server:
        send(server.port, dice)
        before = len(os.listdir("/proc/self/fd"))
        statuses = [send(server.port, dice) for _ in range(bodies)]
        assert {status for status in statuses if status == 0 or status >= 500} == set()
        assert 400 in statuses
        assert 200 in statuses or bodies < 1000, "some of many bodies are whole by chance"
        assert server.engine.places == 0
        assert len(os.listdir("/proc/self/fd")) <= before + 2
