"""`tagmoe data rewrite` and `tagmoe data invert --endpoint` against a real server: states, resuming, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from support.fault_server import fault_server
from support.made_pictures import picture, scene, sound
from support.scripted_vlm import reply

from tagmoe.annotation.ask.texts import AS_IT_IS, REWRITING
from tagmoe.data.check.checks import examine
from tagmoe.data.inverse.invert import OVER_SHARE, PICTURES, TEXTS, WAITING
from tagmoe.data.store.record import to_row
from tagmoe.data.store.store import Store

MAIN = "from tagmoe.cli import main; main()"
BETTER = "Add a large red balloon to the clear sky."
ROWS = 24


@pytest.fixture(scope="module")
def server():
    with fault_server() as running:
        yield running


def made(path, records, rows=8):
    store = Store.create(path)
    with store.writing():
        for start in range(0, len(records), rows):
            store.append(records[start : start + rows])
    return path


@pytest.fixture
def store(tmp_path):
    return made(tmp_path / "s", [sound(n, instruction=f"Add balloon number {n}.") for n in range(ROWS)])


def command(verb, store, server, *more):
    return ("data", verb, store, "--endpoint", server.url, "--model", "tiny-vlm", *more)


def column(store, name):
    return [row[name] for batch in Store.open(store).scan([name]) for row in batch.to_pylist()]


def states(store, name=REWRITING):
    return Counter("open" if value is None else value["status"] for value in column(store, name))


def answers():
    """A good wording for most rows, and each way in which a row can end otherwise."""
    body = {"error": {"message": "flagged"}}
    return [
        {"contains": "number 3.", "content": reply("Draw a zebra.")},
        {"contains": "number 4.", "status": 400, "body": body},
        {"contains": "number 5.", "content": reply("Add balloon number 5.", changed=False)},
        {"contains": "number 6.", "content": "I will not say it in JSON."},
        *(
            {"contains": f"number {n}.", "content": reply(f"Add a large balloon, number {n}, to the clear sky.")}
            for n in range(ROWS)
        ),
    ]


@pytest.mark.slow
def test_every_row_ends_in_a_named_state(tagmoe, store, server):
    server.set(rules=answers())
    server.clear()
    done = tagmoe(*command("rewrite", store, server, "--json"))
    assert done.code == 0, done.err
    data = json.loads(done.out)
    # without its number a wording loses what the user wrote, so it was asked for three times
    assert data["statuses"] == {"invalid": 2, "ok": ROWS - 3, "refused": 1}
    assert (data["rewritten"], data["left"], data["notes"][AS_IT_IS]) == (ROWS - 4, 0, 1)
    assert any("the number '3' is missing" in one["reason"] for one in data["reasons"])
    texts = column(store, "instruction_rewritten")
    assert texts[0] == "Add a large balloon, number 0, to the clear sky."
    assert [n for n, text in enumerate(texts) if text is None] == [3, 4, 5, 6]
    raw = column(store, REWRITING)
    assert "flagged" in raw[4]["raw"]
    assert raw[6]["raw"] == "I will not say it in JSON."
    server.clear()
    assert tagmoe(*command("rewrite", store, server)).code == 0
    assert server.counts()["requests"] == 0
    server.set(rules=[{"content": reply("Add balloon number 4, large and red.")}])
    tagmoe(*command("rewrite", store, server, "--retry", "refused"))
    assert states(store) == {"ok": ROWS - 2, "invalid": 2}


@pytest.mark.slow
def test_a_wording_from_elsewhere_stays_unless_told_otherwise(tagmoe, tmp_path, server):
    records = [sound(0, instruction_rewritten="Given."), sound(1)]
    store = made(tmp_path / "s", records)
    server.set(rules=[{"content": reply(BETTER)}])
    data = json.loads(tagmoe(*command("rewrite", store, server, "--json")).out)
    assert (data["rewritten"], data["from_elsewhere"]) == (1, 1)
    assert column(store, "instruction_rewritten") == ["Given.", BETTER]
    tagmoe(*command("rewrite", store, server, "--replace"))
    assert column(store, "instruction_rewritten") == [BETTER, BETTER]
    # another model's wordings take the place of ours
    server.set(models=["tiny-vlm", "second"], rules=[{"content": reply(f"{BETTER} Keep the rest.")}])
    tagmoe("data", "rewrite", store, "--endpoint", server.url, "--model", "second")
    assert column(store, "instruction_rewritten") == [f"{BETTER} Keep the rest."] * 2
    server.set(models=["tiny-vlm"])


def test_an_account_without_credit_refuses_no_row(tagmoe, store, server):
    body = {"error": {"message": "no credit"}}
    server.set(rules=[{"after": 5, "status": 402, "body": body}, *answers()[4:]])
    server.clear()
    done = tagmoe(*command("rewrite", store, server, "--concurrency", 1))
    assert (done.code, len(done.err.strip().splitlines())) == (1, 1)
    assert "no credit" in done.err
    server.set(rules=answers()[4:])
    assert tagmoe(*command("rewrite", store, server)).code == 0
    assert states(store) == {"ok": ROWS}


@pytest.mark.slow
def test_rows_that_fail_are_said(tagmoe, store, server):
    server.set(rules=[{"contains": "number 7.", "fault": "500"}, *answers()[4:]])
    done = tagmoe(*command("rewrite", store, server, "--limit", 8))
    assert done.code == 1
    assert "1 failed" in done.out
    assert "left: 17 rows" in done.out


@pytest.mark.slow
def test_a_killed_run_goes_on(tagmoe, store, server):
    server.set(rules=answers()[4:], latency=0.05)
    server.clear()
    words = [str(word) for word in command("rewrite", store, server, "--concurrency", 1)]
    for _ in range(2):
        start = server.counts()["requests"]
        running = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while server.counts()["requests"] < start + 5 and running.poll() is None:
            pass
        running.send_signal(signal.SIGKILL)
        running.wait()
    server.set(latency=0.0)
    assert tagmoe(*words).code == 0
    assert states(store) == {"ok": ROWS}
    assert server.counts()["repeats_after_success"] <= 4


REMOVALS = [sound(n, native_task="removal", instruction=f"Remove thing number {n}.") for n in range(6)]
INVERSE = {"instruction": "Add a small blue kite to the left of the tree.", "certain": True}


def test_records_that_wait_get_their_inverse(tagmoe, tmp_path, server, monkeypatch):
    monkeypatch.setattr("tagmoe.vlm.servers.FIRST_PAUSE", 0.05)
    odd = replace(REMOVALS[5], images=(*REMOVALS[5].images, picture(scene(seed=9), "reference")))
    store = made(tmp_path / "s", [*REMOVALS[:5], odd])
    waiting = json.loads(tagmoe("data", "invert", store, "--share", 0.5, "--dry-run", "--json").out)
    assert waiting["waiting"] == {WAITING["remove"]: 6}
    server.set(
        rules=[
            {"contains": "number 1.", "content": {**INVERSE, "certain": False}},
            {"contains": "number 2.", "content": {**INVERSE, "instruction": "Remove thing number 2."}},
            {"contains": "number 3.", "fault": "500"},
            {"content": INVERSE},
        ]
    )
    server.clear()
    done = tagmoe(*command("invert", store, server, "--share", 0.5, "--json"))
    assert done.code == 1
    data = json.loads(done.out)
    assert data["asked"]["statuses"] == {"failed": 1, "invalid": 1, "ok": 2, "refused": 2}
    assert (data["made"], data["waiting"]) == (2, {WAITING["remove"]: 1})
    assert data["made_by_task"] == {"removal -> add": 2}
    assert data["refused"][PICTURES] == 1
    server.set(rules=[{"content": INVERSE}])
    server.clear()
    done = tagmoe(
        *command("invert", store, server, "--share", 0.5, "--json", "--retry", "invalid", "--retry", "refused")
    )
    data = json.loads(done.out)
    assert (done.code, data["made"], data["already"], data["waiting"]) == (0, 3, 2, {})
    assert server.counts()["requests"] == 3
    found = Store.open(store)
    children = [record for record in found.records(range(len(found))) if record.operation == "inverse"]
    assert len(children) == 5
    assert {child.instruction for child in children} == {INVERSE["instruction"]}
    assert {child.native_task for child in children} == {"add"}
    assert all(child.target.data in {parent.images[0].data for parent in REMOVALS} for child in children)
    assert [examine(to_row(child)) for child in children] == [[]] * 5
    again = json.loads(tagmoe(*command("invert", store, server, "--share", 0.5, "--json")).out)
    assert (again["made"], again["asked"]["rows"]) == (0, 0)


@pytest.mark.slow
def test_no_more_is_asked_than_the_share_lets_in(tagmoe, tmp_path, server):
    store = made(tmp_path / "s", [*REMOVALS, *(sound(n, native_task="removal") for n in range(6, 40))])
    server.set(rules=[{"content": INVERSE}])
    server.clear()
    data = json.loads(tagmoe(*command("invert", store, server, "--share", 0.2, "--json")).out)
    asked = server.counts()["requests"]
    assert 0 < data["made"] <= asked < 25
    assert data["waiting"] == {}
    assert data["refused"][OVER_SHARE] == 40 - data["made"]
    assert states(store, TEXTS)["ok"] == asked


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("rewrite",), 2, ("--endpoint",)),
        (("rewrite", "--endpoint", "URL"), 2, ("not named",)),
        (("rewrite", "--endpoint", "URL", "--model", "other"), 2, ("'other'",)),
        (("rewrite", "--model", "no/such/folder"), 2, ("--endpoint",)),
        (("rewrite", "--endpoint", "URL", "--model", "tiny-vlm", "--address", "x"), 2, ("--engine ray",)),
        (("invert", "--endpoint", "URL", "--model", "tiny-vlm", "--dry-run"), 2, ("dry run",)),
        (("invert", "--retry", "refused"), 2, ("--retry", "--endpoint")),
        (("invert", "--pixels", 100), 2, ("--pixels",)),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(tagmoe, store, server, words, code, parts):
    before = Store.open(store).version
    verb, *options = (server.url if word == "URL" else word for word in words)
    tagmoe("data", verb, store, *options).refused(code, *parts)
    assert Store.open(store).version == before
