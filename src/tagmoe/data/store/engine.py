"""Map a function over the fragments of a store: in this process, in several, or on Ray.

A process that dies loses only the fragment it was working on. The engines know nothing of stores: they pass the number
of a fragment to `work` and return its value. Processes are spawned (Lance and torch do not survive a fork), so `work`
must pickle; each process keeps its own copy of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, get_args

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.extras import require
from tagmoe.sentences import reason_of

Work = Callable[[int], Any]
Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
ATTEMPTS = 3
"""A fragment fails when this many workers have died while working on it."""
RAY_STORE_BYTES = 100_000_000
"""Size of Ray's object store if Ray is started here; results are small."""


@dataclass(frozen=True)
class Done:
    """The result of a fragment: the value that `work` returned, or else `error`, one sentence why it failed."""

    fragment: int
    value: Any = None
    error: str | None = None


def run(
    fragments: Sequence[int],
    work: Work,
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    gpus: bool = True,
) -> Generator[Done, None, None]:
    """Map `work` over the fragments and yield one result for each, in the order in which they finish.

    engine: "local" runs in this process, or in `workers` processes if that is above 1; "ray" runs in `workers` actors,
    of the cluster at `address` or of a Ray that is started here and stopped at the end. An exception of `work` becomes
    the error of that fragment. A fragment whose worker dies is tried again, ATTEMPTS times in all. gpus: actors share
    the GPUs of the cluster; without it they take none, so that they run beside others that do.

    Raises UsageError for settings that cannot work, and MissingError if Ray is not installed.
    """
    check_engine(engine, workers, address)
    if engine == "ray":
        return _on_ray(fragments, work, workers, address, gpus)
    if workers == 1:
        return (_do(work, fragment) for fragment in fragments)
    return _in_processes(fragments, work, min(workers, len(fragments)))


def check_engine(engine: Engine, workers: int = 1, address: str | None = None) -> None:
    """Raise the errors of `run` for these settings. It imports no engine, so it is cheap to call early."""
    if engine not in ENGINES:
        raise UsageError(f"The engine is {engine!r}; choose one of {', '.join(ENGINES)}.")
    if workers < 1:
        raise UsageError(f"The number of workers is {workers}; give 1 or more.")
    if address is not None and engine != "ray":
        raise UsageError(f"The address {address!r} is that of a Ray cluster; add --engine ray.")
    if engine == "ray":
        require("ray", purpose="The engine 'ray'")


def _do(work: Work, fragment: int) -> Done:
    try:
        return Done(fragment, work(fragment))
    except TagMoEError as error:
        return Done(fragment, error=str(error))
    except Exception as error:
        reason = reason_of(error)
        return Done(fragment, error=f"Fragment {fragment} failed with {type(error).__name__}: {reason}.")


class _Queue:
    """The fragments that wait for a worker, and how many workers died while working on each."""

    def __init__(self, fragments: Sequence[int]) -> None:
        self.waiting = deque(fragments)
        self._deaths: dict[int, int] = {}

    def died(self, fragment: int) -> Done | None:
        """Put a fragment whose worker died at the end of the queue, or return its failure after ATTEMPTS deaths."""
        self._deaths[fragment] = self._deaths.get(fragment, 0) + 1
        if self._deaths[fragment] < ATTEMPTS:
            self.waiting.append(fragment)
            return None
        return Done(fragment, error=f"Fragment {fragment} was given up: {ATTEMPTS} workers died over it.")


# Processes ------------------------------------------------------------------------------------------------------


def _in_processes(fragments: Sequence[int], work: Work, workers: int) -> Generator[Done, None, None]:
    # concurrent.futures is of no use here: when one of its processes dies, all work fails.
    queue = _Queue(fragments)
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, int]] = {}
    idle: list[tuple[Connection, multiprocessing.process.BaseProcess]] = []
    try:
        while queue.waiting or running:
            while queue.waiting and len(running) < workers:
                pipe, process = idle.pop() if idle else _start(work)
                fragment = queue.waiting.popleft()
                running[pipe] = process, fragment
                try:
                    pipe.send(fragment)
                except OSError:
                    # The worker has died; reading from the pipe fails too, and is handled below.
                    continue
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                pipe = ready
                process, fragment = running.pop(pipe)
                try:
                    done: Done | None = pipe.recv()
                    idle.append((pipe, process))
                except (EOFError, OSError):
                    pipe.close()
                    process.join()
                    done = queue.died(fragment)
                if done is not None:
                    yield done
    finally:
        for pipe, process in [*((pipe, process) for pipe, (process, _) in running.items()), *idle]:
            pipe.close()
            process.terminate()
            process.join()


def _start(work: Work) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()  # so that reading from ours fails when the process dies
    return ours, process


def _serve(pipe: Connection, work: Work) -> None:
    # Ctrl-C reaches all processes of a terminal. Ignore it here: the parent terminates the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            pipe.send(_do(work, pipe.recv()))
    except (EOFError, OSError):
        return


# Ray ------------------------------------------------------------------------------------------------------------


class _Worker:
    """The actor: one process, with its own copy of the work."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def do(self, fragment: int) -> Done:
        return _do(self.work, fragment)


def _on_ray(
    fragments: Sequence[int], work: Work, workers: int, address: str | None, gpus: bool
) -> Generator[Done, None, None]:
    ray, ours = _connect(workers, address)
    queue = _Queue(fragments)
    running: dict[Any, tuple[Any, int]] = {}
    idle: list[Any] = []
    try:
        resources = ray.cluster_resources()
        count = min(workers, len(fragments), max(1, int(resources.get("CPU", 1))))
        share = min(1.0, resources.get("GPU", 0) / max(1, count)) if gpus else 0
        actor = ray.remote(num_cpus=1, num_gpus=share)(_Worker)
        shared = ray.put(work)
        while queue.waiting or running:
            while queue.waiting and len(running) < count:
                worker = idle.pop() if idle else actor.remote(shared)
                fragment = queue.waiting.popleft()
                running[worker.do.remote(fragment)] = worker, fragment
            ready, _ = ray.wait(list(running), num_returns=1)
            worker, fragment = running.pop(ready[0])
            try:
                done = ray.get(ready[0])
                idle.append(worker)
            except ray.exceptions.RayError as error:
                # An actor that cannot be created (a module is missing there) would fail again: do not retry.
                made = "creation task" not in str(error)
                reason = str(error).strip().splitlines()[-1][:300]
                done = queue.died(fragment) if made else Done(fragment, error=f"No worker starts on Ray: {reason}.")
            if done is not None:
                yield done
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            ray.kill(worker)
        if ours:
            ray.shutdown()


def _connect(workers: int, address: str | None) -> tuple[Any, bool]:
    """The module ray, connected, and whether the connection was made here and must be closed at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # This chooses the coming default of Ray, which silences its warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is not None:
            ray.init(address=address, **options)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=RAY_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **options,
            )
    except (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError) as error:
        where = "could not be started" if address is None else f"at {address!r} could not be reached"
        raise UsageError(f"Ray {where}: {reason_of(error)}.") from error
    return ray, True
