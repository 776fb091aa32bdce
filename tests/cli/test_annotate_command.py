"""`tagmoe data annotate` against a real server that fails on purpose: statuses, exit codes, kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fault_server import fault_server

from tagmoe.annotation.answer import read_annotations
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.store import Store

MAIN = "from tagmoe.cli import main; main()"


@pytest.fixture(scope="module")
def server():
    with fault_server() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    import_source(Store.create(tmp_path / "s"), TagWorldSource(40, seed=2), batch_rows=16)
    return tmp_path / "s"


def command(store, server, *more):
    return ("data", "annotate", store, "--endpoint", server.url, "--model", "tiny-vlm", *more)


def test_a_model_annotates_a_store(tagmoe, store, server):
    server.set(faults={"429": 0.1, "500": 0.1, "half_json": 0.1})
    server.clear()
    done = tagmoe(*command(store, server, "--json"))
    data = json.loads(done.out)
    assert data["rows"] == 40
    assert set(data["statuses"]) == {"ok", "invalid"}
    assert (data["left"], data["tags_set"]) == (0, 0)
    assert done.code == 0
    counts = server.counts()
    assert counts["repeats_after_success"] == 0
    assert counts["images"] >= 80
    assert counts["schemas"] == counts["requests"]
    found = list(read_annotations(Store.open(store), "vlm"))
    assert {one.status for one in found} == {"ok", "invalid"}
    assert {one.model for one in found} == {"tiny-vlm"}
    assert "0 rows annotated as 'vlm'" in tagmoe(*command(store, server)).out


@pytest.mark.slow
def test_rows_that_fail_are_said_and_asked_again(tagmoe, store, server):
    picture = Store.open(store).records([5])[0].target.digest
    rules = [{"picture": picture, "fault": "500"}]
    server.set(faults={}, rules=rules)
    failed = tagmoe(*command(store, server, "--replace-tags"))
    server.set(rules=[])
    assert failed.code == 1
    assert "39 ok" in failed.out
    assert "1 failed" in failed.out
    assert "tags for training set in 39 rows; left: 1 row" in failed.out
    done = tagmoe(*command(store, server, "--replace-tags"))
    assert "1 row annotated as 'vlm' (1 ok)" in done.out
    assert done.code == 0


def test_one_question_a_tag_gives_probabilities(tagmoe, store, server):
    server.set(faults={}, rules=[{"contains": "local editing", "probabilities": {"yes": 0.75, "no": 0.25}}])
    assert tagmoe(*command(store, server, "--per-tag", "--limit", 2)).code == 0
    server.set(rules=[])
    found = list(read_annotations(Store.open(store), "vlm"))
    assert len(found[0].probabilities) == 18
    assert found[0].probabilities[0] == pytest.approx(0.75)


def test_the_oracle_and_the_rules_need_no_server(tagmoe, store):
    data = json.loads(tagmoe("data", "annotate", store, "--annotator", "oracle", "--json").out)
    assert (data["annotator"], data["statuses"]) == ("oracle", {"ok": 40})
    data = json.loads(tagmoe("data", "annotate", store, "--json").out)
    assert (data["annotator"], data["rows"]) == ("rules", 40)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--endpoint", "http://127.0.0.1:9/v1", "--model", "m"), 2, ("http://127.0.0.1:9",)),
        (("--endpoint", "URL", "--model", "other"), 2, ("'other'", "tiny-vlm")),
        (("--endpoint", "URL"), 2, ("not named",)),
        (("--annotator", "vlm"), 2, ("--endpoint",)),
        (("--annotator", "rules", "--votes", 3), 2, ("--votes", "rules")),
        (("--endpoint", "URL", "--model", "tiny-vlm", "--rules", "none.yaml"), 2, ("none.yaml",)),
        (("--name", "A B"), 2, ("'A B'",)),
        (("--address", "x"), 2, ("--engine ray",)),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(tagmoe, store, server, words, code, parts):
    server.set(faults={}, rules=[])
    before = Store.open(store).version
    words = [server.url if word == "URL" else word for word in words]
    tagmoe("data", "annotate", store, *words).refused(code, *parts)
    assert Store.open(store).version == before


@pytest.mark.slow
def test_a_wrong_key_and_a_model_without_eyes(tagmoe, store, server, monkeypatch):
    monkeypatch.setenv("TAGMOE_VLM_KEY", "sk-secret-and-wrong")
    server.set(faults={}, key="right")
    wrong = tagmoe(*command(store, server))
    wrong.refused(2, "key")
    assert "sk-secret" not in wrong.err
    monkeypatch.setenv("TAGMOE_VLM_KEY", "right")
    server.set(key="right", vision=False)
    blind = tagmoe(*command(store, server))
    blind.refused(2, "picture")
    server.set(key=None, vision=True)
    monkeypatch.delenv("TAGMOE_VLM_KEY")
    assert tagmoe(*command(store, server)).code == 0


@pytest.mark.slow
def test_killed_at_random_points_nothing_is_lost_or_asked_twice(server, tmp_path):
    store, rows = tmp_path / "s", 150
    import_source(Store.create(store), TagWorldSource(rows, seed=2), batch_rows=16)
    server.set(faults={"429": 0.05, "500": 0.05, "reset": 0.05}, latency=0.02, rules=[])
    server.clear()
    words = [str(word) for word in command(store, server, "--concurrency", 2)]
    rng = random.Random(0)
    in_flight = 0
    for _ in range(20):
        running = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_requests(server, rng.randint(1, 9), running)
        running.send_signal(signal.SIGKILL)
        running.wait()
        in_flight += 2
    finished = subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = list(read_annotations(Store.open(store), "vlm"))
    assert [one.status for one in found] == ["ok"] * rows
    # an answer that was on its way to a killed process was never received
    assert server.counts()["repeats_after_success"] <= in_flight
    assert not (Path(store) / "annotating").exists()


def wait_for_requests(server, more, running):
    start = server.counts()["requests"]
    while server.counts()["requests"] < start + more and running.poll() is None:
        time.sleep(0.01)
