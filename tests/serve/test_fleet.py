"""The images server under Ray Serve: its settings, and two replicas on this machine, one of which is killed."""

from __future__ import annotations

import base64
import inspect
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
from pydantic import ValidationError

from tagmoe.errors import MissingError, UsageError
from tagmoe.pictures import load_image
from tagmoe.serve.fleet import Fleet, app

# Ray Serve's own settings are written for an older pydantic, which its import warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")

PROMPTS = [
    f"a {colour} {shape} at the top left on a sky blue background"
    for colour in ("red", "green", "orange", "purple")
    for shape in ("heart", "star", "square")
]
STEPS = 6


def test_settings_come_as_the_words_of_a_command_line() -> None:
    """Ray Serve looks whether the annotation is a class; a string would leave it with a bare dictionary."""
    (parameter,) = inspect.signature(app).parameters.values()
    assert parameter.annotation is Fleet
    found = Fleet.model_validate({"replicas": "3", "gpus": "0.5", "model": "folder", "queue": "9"})
    assert (found.replicas, found.gpus, found.model, found.queue) == (3, 0.5, Path("folder"), 9)
    assert found.ongoing == 2 * found.batch
    for wrong in ({"replica": "3"}, {"replicas": "0"}, {"queue": "-1"}, {"batch": "1e9"}):
        with pytest.raises(ValidationError):
            Fleet.model_validate(wrong)


def test_what_a_fleet_cannot_do_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'tagmoe\[fleet\]'"):
        app(Fleet())
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no model folder 'nowhere'"):
        app(Fleet(model=Path("nowhere")))
    (tmp_path / "keys").write_text("short\n")
    with pytest.raises(UsageError, match="Key 1 in"):
        app(Fleet(api_keys=tmp_path / "keys"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two replicas behind the proxy of Ray Serve: each holds two requests, and the proxy two more."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="error",
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(Fleet(replicas=2, batch=1, queue=2)), name="fleet", route_prefix="/")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    """The processes of the replicas; they are below this one."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "ServeReplica:fleet:images" in " ".join(process.cmdline())]


def ask(client: openai.OpenAI, number: int) -> np.ndarray:
    answer = client.images.generate(
        model="any", prompt=PROMPTS[number % len(PROMPTS)], extra_body={"seed": number, "steps": STEPS}
    )
    assert answer.data is not None
    (entry,) = answer.data
    assert entry.model_dump()["seed"] == number
    return np.asarray(load_image(base64.b64decode(entry.b64_json or "")))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_full_fleet_answers_429_and_what_it_takes_it_answers(address: str) -> None:
    """By Ray Serve's own back-pressure: 503 would be its default."""

    def once(number: int) -> tuple[int, str | None]:
        """The status, and Retry-After."""
        try:
            ask(client, number)
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers.get("retry-after")
        return 200, None

    with (
        openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=600) as client,
        ThreadPoolExecutor(24) as pool,
    ):
        statuses = Counter(pool.map(once, range(24)))
    assert set(statuses) == {(200, None), (429, "1")}
    # What the replicas hold and what waits is answered; while those are drawn others may get in.
    assert statuses[200, None] >= 6


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_each_request_is_answered_once_though_a_replica_is_killed(address: str) -> None:
    """The proxy answers 500 for what the dead replica held, and the client asks again: with a seed, for the same."""
    statuses: Counter[int] = Counter()

    def count(response: Any) -> None:
        statuses[response.status_code] += 1

    http = openai.DefaultHttpxClient(event_hooks={"response": [count]})
    before = replicas()
    assert len(before) == 2
    with (
        openai.OpenAI(base_url=address, api_key="none", max_retries=500, timeout=600, http_client=http) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        asked: list[Future[np.ndarray]] = [pool.submit(ask, client, number) for number in range(24)]
        end = time.monotonic() + 600
        while sum(one.done() for one in asked) < 4 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(before[0].pid, signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert statuses[200] == len(asked), "one picture for each, and none twice"
    assert statuses[500] >= 1, "something was lost, else nothing was shown"
    assert set(statuses) <= {200, 429, 500, 503}
    assert before[0].pid not in [process.pid for process in replicas()]
    alone = own_pictures(len(asked))
    assert all(np.array_equal(ours, other) for ours, other in zip(answers, alone, strict=True))
    while len(replicas()) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(replicas()) == 2, "Ray Serve starts another in its place"


def own_pictures(count: int) -> list[np.ndarray]:
    """What the server of this process draws for the same requests, one at a time."""
    import torch
    from support.serving import serving

    from tagmoe.pipeline.packaged import load_packaged
    from tagmoe.serve.painter import PipelinePainter

    torch.set_num_threads(1)
    with serving(PipelinePainter(load_packaged(), "tagworld", threads=1)) as running, running.client() as client:
        return [ask(client, number) for number in range(count)]
