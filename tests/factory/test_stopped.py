"""A run that is stopped anywhere, also by kill -9, ends with the samples of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stored_content import content_hash
from support.syntheses import a_plan, killed_at_random, synthesize

from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.store import Store
from tagmoe.factory.folder import Folder

STEPS = (
    {"step": "edit", "editor": "unreliable", "licence": "MIT", "seeds": 2, "timeout": None, "batch": 4},
    {"step": "check"},
    {"step": "pick"},
    {"step": "dedupe"},
    {"step": "annotate", "by": "oracle"},
    {"step": "split"},
)
KILLS = 20


def content(folder: Path) -> list[str]:
    """Digests of all that a run leaves: samples, negatives, and the rows without a picture."""
    stores = [content_hash(Store.open(folder / name)) for name in ("store", "negatives")]
    return [*stores, json.dumps(Folder(folder).failed("1-edit"), sort_keys=True)]


class Stopped(BaseException):
    """As Ctrl-C."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "whole"
    synthesize(folder, a_plan(*STEPS, count=8))
    return content(folder)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_run_that_is_stopped_at_any_write_goes_on(tmp_path, monkeypatch, undisturbed, late) -> None:
    plan, stops = a_plan(*STEPS, count=8), 0
    for owner, name, numbers in (
        (Ledger, "add", (2, 6)),
        (Store, "append", (2,)),
        (Store, "commit", (1, 2)),
        (Folder, "write", (6,)),
    ):
        for number in numbers:
            with monkeypatch.context() as patched:
                _stop_at(patched, owner, name, number, late=late)
                try:
                    synthesize(tmp_path / "a", plan)
                except Stopped:
                    stops += 1
    synthesize(tmp_path / "a", plan)
    assert stops >= 4, "the stops came too late to say anything"
    assert content(tmp_path / "a") == undisturbed


def _stop_at(patched: pytest.MonkeyPatch, owner: type, name: str, number: int, *, late: bool) -> None:
    """Stop at the call of this number, before or after it was done."""
    done, calls = getattr(owner, name), 0

    def stopping(*args, **named):
        nonlocal calls
        calls += 1
        if calls == number and not late:
            raise Stopped
        result = done(*args, **named)
        if calls == number:
            raise Stopped
        return result

    patched.setattr(owner, name, stopping)


COMMAND = """
import json, sys
from pathlib import Path
from support.syntheses import a_plan, synthesize
from factory.test_stopped import STEPS
synthesize(Path(sys.argv[1]), a_plan(*STEPS, count=60, unit=6))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_at_random_points(tmp_path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        tests = Path(__file__).parents[1]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")]),
            "TAGMOE_TEST_EDITOR_SECONDS": "0.02",
        }
        return subprocess.Popen([sys.executable, "-c", COMMAND, str(folder)], env=environment, start_new_session=True)

    assert start(tmp_path / "whole").wait() == 0
    ended = killed_at_random(start, tmp_path / "killed", KILLS, 0.4)
    assert start(tmp_path / "killed").wait() == 0
    assert not ended, "the kills came too late to say anything"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
