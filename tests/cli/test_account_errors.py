"""A server that refuses for its account, not for a row: the run stops, the rows stay open, the next run asks them."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
from support.fault_server import fault_server

from tagmoe.annotation.answer import read_annotations
from tagmoe.annotation.ask.doubts import MOST_HELD
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.store import Store

ROWS = 30
ACCOUNT = [
    (400, {"error": {"message": "Your account has no credit left"}}),
    (402, {"error": {"message": "Insufficient credits"}}),
    (403, {"error": {"message": "The key was revoked"}}),
    (404, {"error": {"message": "model not found"}}),
    (401, {"error": {"message": "key revoked"}}),
    (418, {"detail": "quota exceeded"}),
    (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
    (451, "not in your country"),
    (200, {"error": {"message": "Insufficient credits", "code": 402}}),
]


@pytest.fixture(scope="module")
def server():
    with fault_server() as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("account") / "s"
    import_source(Store.create(path), TagWorldSource(ROWS, seed=2), batch_rows=16)
    return path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "s")


def annotate(tagmoe, store, server, *more):
    words = ("data", "annotate", store, "--endpoint", server.url, "--model", "tiny-vlm", "--concurrency", 2)
    return tagmoe(*words, *more)


def statuses(store):
    found = read_annotations(Store.open(store), "vlm")
    return Counter("open" if one is None else one.status for one in found)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("answered", "status", "body"),
    [
        pytest.param(answered, *account, marks=[pytest.mark.slow] if answered and number % 3 else [])
        for answered in (0, 7)
        for number, account in enumerate(ACCOUNT)
    ],
)
def test_no_row_is_refused_for_the_account(tagmoe, store, server, answered, status, body):
    server.set(rules=[{"after": answered, "status": status, "body": body}])
    server.clear()
    done = annotate(tagmoe, store, server)
    assert done.code == 1, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "refused" not in statuses(store)
    server.set(rules=[])
    server.clear()
    assert annotate(tagmoe, store, server).code == 0
    assert statuses(store) == {"ok": ROWS}
    assert server.counts()["requests"] == ROWS - answered


@pytest.mark.slow
def test_a_refused_row_among_others_costs_itself(tagmoe, store, server):
    picture = Store.open(store).records([5])[0].target.digest
    server.set(rules=[{"picture": picture, "status": 403, "body": {"error": {"message": "flagged"}}}])
    server.clear()
    assert annotate(tagmoe, store, server).code == 0
    assert statuses(store) == {"ok": ROWS - 1, "refused": 1}
    # the rows after it were answered, so it needs no control question
    assert server.counts()["requests"] == ROWS


@pytest.mark.slow
def test_a_run_of_refused_rows_needs_few_control_questions(tagmoe, store, server):
    server.set(rules=[{"contains": "Instruction:", "status": 400, "body": {"error": {"message": "flagged"}}}])
    server.clear()
    done = annotate(tagmoe, store, server, "--json")
    assert done.code == 0
    assert json.loads(done.out)["statuses"] == {"refused": ROWS}
    assert server.counts()["requests"] - ROWS <= ROWS // MOST_HELD + 1
    server.set(rules=[])
    assert annotate(tagmoe, store, server, "--retry", "refused").code == 0
    assert statuses(store) == {"ok": ROWS}


@pytest.mark.slow
def test_a_row_that_is_refused_before_the_account_is_empty_hides_nothing(tagmoe, store, server):
    body = {"error": {"message": "denied"}}
    picture = Store.open(store).records([0])[0].target.digest
    server.set(rules=[{"picture": picture, "status": 400, "body": body}, {"after": 1, "status": 400, "body": body}])
    server.clear()
    assert annotate(tagmoe, store, server, "--limit", 6).code == 1
    assert "refused" not in statuses(store)


@pytest.mark.slow
def test_several_processes_stop_too(tagmoe, store, server):
    server.set(rules=[{"after": 3, "status": 402, "body": {"error": {"message": "no credit"}}}])
    server.clear()
    done = annotate(tagmoe, store, server, "--workers", 2)
    assert (done.code, "no credit" in done.err) == (1, True)
    server.set(rules=[])
    assert annotate(tagmoe, store, server, "--workers", 2).code == 0
    assert statuses(store) == {"ok": ROWS}
