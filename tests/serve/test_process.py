"""`tagmoe serve` as a process of its own: it says where it answers, and SIGTERM lets what runs finish."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx2
import pytest

pytestmark = pytest.mark.slow


@contextmanager
def process(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process) of `tagmoe serve` with the packaged model."""
    command = [sys.executable, "-c", "from tagmoe.cli import main; main()", "serve", "--port", "0", "--no-page", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rest = threading.Thread()
    try:
        assert running.stderr is not None
        said = ""
        for line in running.stderr:
            said += line
            if found := re.search(r"answers at (http://127\.0\.0\.1:\d+/v1)", line):
                break
        else:
            pytest.fail(f"it ended: {said}")
        rest = threading.Thread(target=running.stderr.read, daemon=True)
        rest.start()
        yield found[1], running
    finally:
        running.kill()
        running.wait()
        if rest.ident is not None:
            rest.join(10)
        for pipe in (running.stdout, running.stderr):
            if pipe is not None:
                pipe.close()


def draw(address: str, steps: int) -> httpx2.Response:
    fields = {"prompt": "a red heart at the top left on a sky blue background", "steps": steps}
    return httpx2.post(f"{address}/images/generations", json=fields, timeout=60)


def drawn(address: str) -> int:
    text = httpx2.get(address.removesuffix("/v1") + "/metrics").text
    return int(float(re.findall(r"^tagmoe_queue_places (\S+)", text, re.MULTILINE)[0]))


def test_sigterm_finishes_what_runs_and_takes_nothing_new() -> None:
    with process("--batch", "1") as (address, running), ThreadPoolExecutor(2) as pool:
        assert draw(address, 1).status_code == 200
        jobs = [pool.submit(draw, address, 100) for _ in range(2)]
        end = time.monotonic() + 30
        while drawn(address) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx2.TransportError):
            draw(address, 1)
        assert running.poll() is None, "it waits for what runs and for what waits"
        assert [job.result().status_code for job in jobs] == [200, 200]
        assert running.wait(30) == 0
        assert running.stdout is not None
        assert running.stdout.read() == ""


def test_sigterm_ends_what_takes_longer_than_the_drain() -> None:
    with process("--drain", "1", "--max-steps", "1000") as (address, running), ThreadPoolExecutor(1) as pool:
        job = pool.submit(draw, address, 1000)
        end = time.monotonic() + 30
        while not drawn(address) and time.monotonic() < end:
            time.sleep(0.01)
        started = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert time.monotonic() - started < 15
        # The answer ends with an error, or the connection ends.
        with suppress(httpx2.TransportError):
            assert job.result().status_code >= 500


def test_ctrl_c_ends_with_its_own_code() -> None:
    with process() as (address, running):
        assert json.loads(httpx2.get(address.removesuffix("/v1") + "/health").text) == {"status": "ok"}
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
