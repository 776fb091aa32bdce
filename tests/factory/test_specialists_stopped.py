"""A run of specialists that is stopped anywhere, also by kill -9, ends with the samples of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.photograph_stores import photographs
from support.stored_content import content_hash
from support.syntheses import killed_at_random, synthesize

from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.store import Store
from tagmoe.factory.folder import Folder
from tagmoe.factory.plan import Plan, plan_of

STEPS = (
    # Wrong for some roots: they have no mask.
    {"step": "make", "by": "remove", "directions": ["add", "remove"]},
    {"step": "make", "by": "restore", "damage": ["noise", "blur"], "seeds": 2},
    {"step": "check"},
    {"step": "pick"},
    {"step": "dedupe"},
    {"step": "annotate", "by": "rules"},
    {"step": "split"},
)
KILLS = 12


def a_plan(folder: Path, unit: int = 2) -> Plan:
    """The plan on the store of roots in a folder."""
    return plan_of({"name": "stopped", "roots": {"store": str(folder), "unit": unit}, "steps": list(STEPS)})


def content(folder: Path) -> list[str]:
    """Digests of all that a run leaves: samples, negatives, and the rows without a picture."""
    stores = [content_hash(Store.open(folder / name)) for name in ("store", "negatives")]
    return [*stores, json.dumps(Folder(folder).failed("1-remove"), sort_keys=True)]


class Stopped(BaseException):
    """As Ctrl-C."""


def test_a_run_of_specialists_that_is_stopped_at_any_write_goes_on(tmp_path, monkeypatch) -> None:
    photographs(tmp_path / "roots", 3, with_masks=True)
    plan, stops = a_plan(tmp_path / "roots"), 0
    synthesize(tmp_path / "whole", plan)
    for owner, name, number in ((Ledger, "add", 3), (Ledger, "add", 5), (Store, "append", 2), (Store, "commit", 2)):
        with monkeypatch.context() as patched:
            done, calls = getattr(owner, name), 0

            def stopping(*args, done=done, number=number, **named):
                nonlocal calls
                calls += 1
                result = done(*args, **named)
                if calls == number:
                    raise Stopped
                return result

            patched.setattr(owner, name, stopping)
            try:
                synthesize(tmp_path / "a", plan)
            except Stopped:
                stops += 1
    synthesize(tmp_path / "a", plan)
    assert stops == 4, "a stop came too late to say anything"
    assert content(tmp_path / "a") == content(tmp_path / "whole")


COMMAND = """
import sys
from pathlib import Path
from support.syntheses import synthesize
from factory.test_specialists_stopped import a_plan
synthesize(Path(sys.argv[1]), a_plan(Path(sys.argv[2])))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_at_random_points(tmp_path) -> None:
    photographs(tmp_path / "roots", 16, with_masks=True)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-c", COMMAND, str(folder), str(tmp_path / "roots")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.Popen(command, env=environment, start_new_session=True)

    assert start(tmp_path / "whole").wait() == 0
    ended = killed_at_random(start, tmp_path / "killed", KILLS, 0.3)
    assert start(tmp_path / "killed").wait() == 0
    assert not ended, "the kills came too late to say anything"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
