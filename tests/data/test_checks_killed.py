"""validate and invert, killed with SIGKILL at random points and run again, end as if nobody had disturbed them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.made_pictures import sound
from support.stored_content import content_hash

from tagmoe.data.store.record import Picture, TagProvenance
from tagmoe.data.store.store import Store

KILLS = 20
CODE = {
    "validate": "validate(store, workers={workers}, again={again})",
    # Small batches, so that there are many points between two of them.
    "invert": "invert(store, Rules(share=0.5))",
}
PROLOGUE = """
import sys
from tagmoe.data.inverse import invert as inverting
from tagmoe.data.inverse.invert import Rules, invert
from tagmoe.data.store.store import Store
from tagmoe.data.check.validate import validate
inverting.BATCH_ROWS = 4
store = Store.open(sys.argv[1])
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "store"
    made = Store.create(path)
    with made.writing():
        for start in range(0, 120, 6):
            records = []
            for number in range(start, start + 6):
                changes = {"instruction": ""} if number % 7 == 0 else {}
                if number % 11 == 0:
                    changes["images"] = (Picture(sound(number).images[0].data[:999], 128, 128),)
                records.append(sound(number % 100, tag_provenance=TagProvenance("person"), **changes))
            made.append(records)
    return path


def started(verb: str, path: Path, **options: object) -> subprocess.Popen[str]:
    code = PROLOGUE + CODE[verb].format(**{"workers": 1, "again": False, **options})
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def undisturbed(verb: str, path: Path) -> tuple[str, float]:
    begun = time.perf_counter()
    process = started(verb, path)
    begun = time.perf_counter()
    assert process.wait() == 0
    return content_hash(Store.open(path)), time.perf_counter() - begun


def copy(store: Path, path: Path) -> Path:
    shutil.copytree(store, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "invert"])
def test_killed_at_random_points(verb, store, tmp_path):
    wanted, seconds = undisturbed(verb, copy(store, tmp_path / "whole"))
    dice = random.Random(verb)
    cut, path = 0, copy(store, tmp_path / "killed")
    partial = set()
    for turn in range(KILLS):
        process = started(verb, path)
        time.sleep(dice.uniform(0, seconds * (0.2 + turn / KILLS)))
        cut += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = Store.open(path)
        partial.add(len(left) if verb == "invert" else len(left.unfilled("quarantine")) if marked(left) else -1)
        if turn % 4 == 3:  # from the start again, for the points that lie early
            finish(verb, path, wanted)
            shutil.rmtree(path)
            copy(store, path)
    assert cut >= KILLS // 2
    assert len(partial) >= 4
    finish(verb, path, wanted)


def marked(store: Store) -> bool:
    return "quarantine" in store.columns


def finish(verb: str, path: Path, wanted: str) -> None:
    assert started(verb, path).wait() == 0
    assert content_hash(Store.open(path)) == wanted
    version = Store.open(path).version
    assert started(verb, path).wait() == 0
    assert content_hash(Store.open(path)) == wanted
    assert Store.open(path).version <= version + 1


@pytest.mark.slow
def test_killed_while_all_is_checked_again_with_workers(store, tmp_path):
    wanted, seconds = undisturbed("validate", copy(store, tmp_path / "s"))
    dice = random.Random(5)
    for _ in range(4):
        process = started("validate", tmp_path / "s", workers=2, again=True)
        time.sleep(1 + dice.uniform(0, seconds))
        workers = children_of(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        # Nobody is left behind.
        while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(alive(worker) for worker in workers)
    finish("validate", tmp_path / "s", wanted)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
