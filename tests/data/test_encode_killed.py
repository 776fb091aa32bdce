"""`tagmoe data encode`, killed at random points: what was finished stays, and the end is as of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from support.encoded_stores import make_store, start_command
from support.stored_content import content_hash

from tagmoe.data.encode import INDICATOR
from tagmoe.data.store.store import Store

KILLS = 20
FRAGMENTS = 40


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_at_random_points(tmp_path):
    undisturbed = make_store(tmp_path / "a", (4,) * FRAGMENTS)
    store = make_store(tmp_path / "b", (4,) * FRAGMENTS)
    whole = start_command(tmp_path / "a", "--threads", "1")
    assert json.loads(whole.communicate()[0])["rows"] == 4 * FRAGMENTS
    chance, left = random.Random(0), []
    for kill in range(KILLS):
        running = start_command(tmp_path / "b", "--threads", "1")
        # wait for this run's first fragment, so that the kills fall into the work and not into the imports
        before = len(Store.open(store.uri).unfilled(INDICATOR)) if kill else FRAGMENTS
        deadline = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < deadline:
            opened = Store.open(store.uri)
            if INDICATOR in opened.columns and len(opened.unfilled(INDICATOR)) < before:
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.03))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        left.append(len(Store.open(store.uri).unfilled(INDICATOR)))
    assert left == sorted(left, reverse=True)
    assert left[5] > 0, "the kills came too late to say anything"
    last = start_command(tmp_path / "b", "--threads", "1")
    assert json.loads(last.communicate()[0])["fragments_left"] == 0
    finished = Store.open(store.uri)
    assert len(finished) == 4 * FRAGMENTS
    assert content_hash(finished) == content_hash(Store.open(undisturbed.uri))
