"""The engines: every fragment comes back once, whatever its worker does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tagmoe.data.store import engine
from tagmoe.data.store.engine import ATTEMPTS, run
from tagmoe.errors import DataError, MissingError, UsageError


@dataclass(frozen=True)
class Work:
    """Squares a number, except that number 2 raises, 3 kills its process the first time and 4 always."""

    folder: Path

    def __call__(self, fragment: int) -> int:
        with (self.folder / f"{fragment}.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        if fragment == 2:
            raise DataError("two is bad.")
        if fragment == 5:
            raise ZeroDivisionError("five\nis worse")
        if fragment == 4 or (fragment == 3 and self.attempts(3) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return fragment * fragment

    def attempts(self, fragment: int) -> int:
        return len((self.folder / f"{fragment}.log").read_text().splitlines())


def check(work: Work, engine: str) -> None:
    found = list(run(range(7), work, engine=engine, workers=2))
    assert sorted(done.fragment for done in found) == list(range(7))
    values = {done.fragment: done.value for done in found}
    assert values == {0: 0, 1: 1, 2: None, 3: 9, 4: None, 5: None, 6: 36}
    errors = {done.fragment: done.error for done in found if done.error}
    assert errors[2] == "two is bad."
    assert "given up: 3 workers died" in errors[4]
    assert errors[5] == "Fragment 5 failed with ZeroDivisionError: five is worse."
    assert len(errors) == 3
    assert [work.attempts(fragment) for fragment in range(7)] == [1, 1, 1, 2, ATTEMPTS, 1, 1]
    pids = {int(line) for log in work.folder.glob("*.log") for line in log.read_text().split()}
    assert os.getpid() not in pids


@pytest.mark.slow
def test_processes_that_die_lose_only_their_fragment(tmp_path):
    check(Work(tmp_path), "local")


class Thread:
    """A worker of the engine in a thread, with a pipe of its own. It dies where the work exits."""

    def __init__(self, *, target: Any, args: tuple[Connection, Any], daemon: bool) -> None:
        self._pipe, work = Connection(os.dup(args[0].fileno())), args[1]
        self._thread = threading.Thread(target=self._run, args=(target, work), daemon=daemon)
        self.start, self.join = self._thread.start, self._thread.join

    def _run(self, target: Any, work: Any) -> None:
        try:
            target(self._pipe, work)
        except SystemExit:
            pass
        finally:
            self._pipe.close()

    def terminate(self) -> None:
        """Its pipe is closed: it ends."""


def test_workers_that_die_lose_only_their_fragment(monkeypatch):
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Thread)
    monkeypatch.setattr(engine, "multiprocessing", SimpleNamespace(get_context=lambda _: context))
    monkeypatch.setattr(engine, "signal", SimpleNamespace(signal=lambda *_: None, SIGINT=None, SIG_IGN=None))
    tried = Counter()

    def work(fragment):
        tried[fragment] += 1
        if fragment == 2:
            raise DataError("two is bad.")
        if fragment == 4 or (fragment == 3 and tried[3] == 1):
            raise SystemExit
        return fragment * fragment

    found = {done.fragment: done for done in run(range(6), work, workers=2)}
    assert {fragment: done.value for fragment, done in found.items()} == {0: 0, 1: 1, 2: None, 3: 9, 4: None, 5: 25}
    assert found[2].error == "two is bad."
    assert found[4].error == "Fragment 4 was given up: 3 workers died over it."
    assert tried == {0: 1, 1: 1, 2: 1, 3: 2, 4: ATTEMPTS, 5: 1}


def test_in_this_process_a_fault_is_the_error_of_its_fragment(tmp_path):
    found = list(run([0, 2, 5], Work(tmp_path)))
    assert [done.value for done in found] == [0, None, None]
    assert [done.error for done in found[1:]] == [
        "two is bad.",
        "Fragment 5 failed with ZeroDivisionError: five is worse.",
    ]


@pytest.mark.slow
def test_workers_on_ray_give_results_and_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # Ray's workers import this file
    found = {done.fragment: (done.value, done.error) for done in run([6, 2], Work(tmp_path), engine="ray", workers=1)}
    assert found == {6: (36, None), 2: (None, "two is bad.")}
    assert str(os.getpid()) not in (tmp_path / "6.log").read_text().split()


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why(monkeypatch):
    """Work of a module that only this process has."""
    module = ModuleType("module_of_this_process")
    exec("def work(fragment): return fragment", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (found,) = run([1], module.work, engine="ray", workers=1)
    assert found.error is not None
    assert found.error.startswith("No worker starts on Ray: ")
    assert "No module named" in found.error


@pytest.mark.slow
def test_ray_workers_that_die_lose_only_their_fragment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    check(Work(tmp_path), "ray")
    import ray

    assert not ray.is_initialized()


def test_one_worker_is_this_process(tmp_path):
    work = Work(tmp_path)
    found = {done.fragment: (done.value, done.error) for done in run([6, 2, 1], work)}
    assert found == {6: (36, None), 2: (None, "two is bad."), 1: (1, None)}
    assert (tmp_path / "6.log").read_text().split() == [str(os.getpid())]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_who_stops_listening_leaves_no_process_behind(tmp_path):
    results = run([0, 1, 6], Work(tmp_path), workers=2)
    next(results)
    results.close()
    pids = {int(line) for log in tmp_path.glob("*.log") for line in log.read_text().split()}
    assert pids
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"engine": "dask"}, "'dask'"), ({"workers": 0}, "is 0"), ({"address": "auto"}, "--engine ray")],
)
def test_settings_that_cannot_be_met(options, message):
    with pytest.raises(UsageError, match=message):
        run([0], abs, **options)


def test_without_ray(monkeypatch):
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'tagmoe\[ray\]'"):
        run([0], abs, engine="ray")
