"""Check all records of a store; the column `quarantine` lists the checks that found something.

quarantine: null means not checked yet, [] means sound, else names of CHECKS. It is filled fragment by fragment, so that
a killed run resumes. A note holds the version of the checks; results of another version are dropped.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import pyarrow as pa

from tagmoe.data.check import checks
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError

QUARANTINE = pa.field("quarantine", pa.list_(pa.string()))
NOTE = "validate"
ROWS = 16
"""Rows that a worker gets at a time: a few megabytes."""
ID_ROWS = 65536
IDS_AT_ONCE = 2_000_000
"""Ids compared in one pass over the store. This bounds the memory: 16 bytes each, and as much to sort them."""
FIRST_ROWS = 5
"""Records that the summary names for each check."""


@dataclass
class Summary:
    """What the column `quarantine` says.

    records: checked records. unsound: records with any finding. counts: records by check, then by dataset. first:
    number and id of the first rows with a finding, by check.
    """

    records: int = 0
    unsound: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    first: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def most_common(self) -> list[tuple[str, Counter[str]]]:
        """(check, records by dataset), the most frequent check first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1].total(), item[0]))


def validate(
    store: Store,
    *,
    workers: int = 1,
    again: bool = False,
    policy: checks.Policy | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Check the records that are not checked yet, and return their number.

    Texts and tags of all records are checked, as they may have been set after an earlier validation. workers:
    processes; with 1, this process. again: check all records. policy: the checks and their limits; another policy than
    before checks all records, too. progress: called with rows done and all. Raises DataError when the store cannot be
    written or a worker dies.
    """
    policy = policy or checks.Policy.of()
    with store.writing():
        _prepare(store, again, policy)
        todo = store.unfilled(QUARANTINE.name)
        _check_texts(store, [number for number in store.fragments() if number not in todo], policy)
        if not todo:
            return 0
        starts, copies = later_copies(store)
        total = sum(starts[number][1] for number in todo)
        done = 0
        with _pool(workers, policy) as submit:
            for number in todo:
                values: list[list[str]] = []
                batches = (batch.to_pylist() for batch in store.fragment(number, checks.COLUMNS, rows=ROWS))
                for names in _in_order(submit, batches, 2 * workers):
                    values += names
                    done += len(names)
                    if progress is not None:
                        progress(done, total)
                start, count = starts[number]
                for row in copies[(copies >= start) & (copies < start + count)]:
                    if "duplicate id" in policy.limits:
                        values[int(row) - start].append("duplicate id")
                store.fill(number, pa.table({QUARANTINE.name: pa.array(values, QUARANTINE.type)}))
    return done


def policy_of(store: Store) -> checks.Policy:
    """The policy of the last validation, or the default one."""
    limits = (store.note(NOTE) or {}).get("limits")
    return checks.Policy.of() if limits is None else checks.Policy(limits)


def summarise(store: Store) -> Summary:
    """Read the column `quarantine` of all rows."""
    summary = Summary()
    if QUARANTINE.name not in store.columns:
        return summary
    start = 0
    for batch in store.scan(["id", "dataset", QUARANTINE.name], rows=ID_ROWS):
        for number, row in enumerate(batch.to_pylist(), start=start):
            found = row[QUARANTINE.name]
            summary.records += found is not None
            summary.unsound += bool(found)
            for name in found or ():
                summary.counts.setdefault(name, Counter())[row["dataset"]] += 1
                first = summary.first.setdefault(name, [])
                if len(first) < FIRST_ROWS:
                    first.append((number, row["id"]))
        start += batch.num_rows
    return summary


def later_copies(store: Store) -> tuple[dict[int, tuple[int, int]], np.ndarray]:
    """(First row, length) by fragment, and the ascending numbers of rows whose id an earlier row has.

    The memory does not grow with the store: each pass compares only the ids whose digests have one remainder.
    """
    passes = max(1, -(-len(store) // IDS_AT_ONCE))
    starts: dict[int, tuple[int, int]] = {}
    found = []
    for part in range(passes):
        keys, rows, row = [], [], 0
        for number in store.fragments():
            start = row
            for batch in store.fragment(number, ["id"], rows=ID_ROWS):
                digests = np.fromiter(map(_digest, batch.column("id").to_pylist()), np.uint64, batch.num_rows)
                here = np.flatnonzero(digests % np.uint64(passes) == part)
                keys.append(digests[here])
                rows.append(here + row)
                row += batch.num_rows
            starts[number] = (start, row - start)
        if keys:
            _, first = np.unique(np.concatenate(keys), return_index=True)
            found.append(np.delete(np.concatenate(rows), first))
    return starts, np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _digest(name: str) -> int:
    """A digest of 64 bits. For 11 million ids, the probability of any collision is 3 in a million."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _check_texts(store: Store, fragments: Sequence[int], policy: checks.Policy) -> None:
    """Check the texts and tags of rows whose pictures were checked before, and correct what the column says of them."""
    columns = [name for name in checks.COLUMNS if name not in ("images", "target")]
    for number in fragments:
        before: list[list[str]] = []
        values: list[list[str]] = []
        for batch in store.fragment(number, [*columns, QUARANTINE.name], rows=ID_ROWS):
            for row in batch.to_pylist():
                told = row[QUARANTINE.name]
                found = {finding.check for finding in checks.examine_texts(row, policy)}
                kept = {name for name in told if name not in checks.TEXT_CHECKS} | found
                before.append(told)
                values.append([name for name in checks.CHECKS if name in kept])
        if values != before:
            store.fill(number, pa.table({QUARANTINE.name: pa.array(values, QUARANTINE.type)}))


def _prepare(store: Store, again: bool, policy: checks.Policy) -> None:
    """Declare the column, and drop results of other checks or limits. A killed run is completed by the next."""
    current = {"version": checks.VERSION, "limits": dict(sorted(policy.limits.items()))}
    stale = again or store.note(NOTE) != current
    if stale and QUARANTINE.name in store.columns:
        # A column of this name and another type is not ours to drop: this refuses it.
        store.declare([QUARANTINE])
        store.drop([QUARANTINE.name])
    if store.note(NOTE) != current:
        store.set_note(NOTE, current)
    store.declare([QUARANTINE])


def examine_rows(rows: Sequence[Mapping[str, Any]], policy: checks.Policy) -> list[list[str]]:
    """For each row, the names of the checks that find something, each once, in the order of CHECKS."""
    names = [{finding.check for finding in checks.examine(row, policy)} for row in rows]
    return [[check for check in checks.CHECKS if check in found] for found in names]


def _in_order(
    submit: Callable[[list[dict[str, Any]]], Future[list[list[str]]]],
    batches: Iterable[list[dict[str, Any]]],
    ahead: int,
) -> Iterator[list[list[str]]]:
    """The results in the order of the batches; at most `ahead` batches are in memory."""
    waiting: deque[Future[list[list[str]]]] = deque()
    for batch in batches:
        waiting.append(submit(batch))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _pool(workers: int, policy: checks.Policy) -> Iterator[Callable[[list[dict[str, Any]]], Future[list[list[str]]]]]:
    """A function that submits rows to be examined, in this process or in `workers` others."""
    if workers == 1:
        yield partial(_at_once, policy=policy)
        return
    # spawn: Lance runs threads, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield lambda rows: pool.submit(examine_rows, rows, policy)
    except BrokenProcessPool:
        raise DataError(
            "A worker process was killed, most likely for want of memory; run the same command again with fewer "
            "--workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _at_once(rows: list[dict[str, Any]], policy: checks.Policy) -> Future[list[list[str]]]:
    future: Future[list[list[str]]] = Future()
    future.set_result(examine_rows(rows, policy))
    return future


def _start_worker() -> None:
    """In a worker: ignore interrupts, which the parent handles, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        signal.raise_signal(signal.SIGKILL)
