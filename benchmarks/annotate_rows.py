"""Part of `annotate.py`: a store of 10,000 rows through a server that fails on purpose, killed three times."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from data_path import filled
from figures import Figure

from tagmoe.annotation.answer import Annotation, first_rows, read_annotations
from tagmoe.annotation.ask.asking import LEDGERS
from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.store import Store

FAULTS = {"429": 0.05, "500": 0.04, "503": 0.02, "reset": 0.04, "half_body": 0.02, "not_json": 0.02, "hang": 0.01}
"""Share of requests that fail: one in five."""
LATENCY = 0.05
IN_FLIGHT = 64
KILLS = (0.2, 0.5, 0.8)
PICTURE_BYTES = 2_000
MAIN = "from tagmoe.cli import main; main()"


def annotating(folder: Path, rows: int) -> list[Figure]:
    """Count rows lost, doubled, and asked again after their answer was recorded. Also measure the client's memory."""
    from support.fault_server import fault_server

    path = folder / "annotated"
    filled(path, rows, PICTURE_BYTES)
    lost_answers, peak, started = 0, 0, time.perf_counter()
    with fault_server(latency=LATENCY, faults=FAULTS) as server:
        command = [sys.executable, "-c", MAIN, "data", "annotate", str(path), "--endpoint", server.url]
        command += ["--model", "tiny-vlm", "--concurrency", str(IN_FLIGHT), "--timeout", "2"]
        for share in (*KILLS, None):
            before, recorded = server.counts()["successes"], len(answered_rows(path))
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while running.poll() is None and (share is None or server.counts()["successes"] < share * rows):
                peak = max(peak, _resident(running.pid))
                time.sleep(0.05)
            if share is not None:
                running.send_signal(signal.SIGKILL)
            running.wait()
            # Complete answers that the server sent to a killed process.
            if share is not None:
                lost_answers += server.counts()["successes"] - before - (len(answered_rows(path)) - recorded)
        # A row fails after five faults in a row. The same command asks failed rows again.
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        counts = server.counts()
    seconds = time.perf_counter() - started
    store = Store.open(path)
    found = list(read_annotations(store, "vlm"))
    answered = sum(one is not None and one.status == "ok" for one in found)
    ids = [row["id"] for batch in store.scan(["id"]) for row in batch.to_pylist()]
    again = counts["successes"] - answered - lost_answers
    faults = sum(counts["faults"].values()) / counts["requests"]
    note = f"{rows:,} rows, {100 * faults:.0f} % of {counts['requests']:,} requests failed, {len(KILLS)} kill -9"
    return [
        Figure("rows_lost", rows - answered + (code != 0), "rows", 0, note=note),
        Figure("rows_doubled", len(ids) - len(set(ids)) + abs(len(ids) - rows), "rows", 0),
        Figure(
            "asked_again_after_recorded", again, "rows", 0, note=f"{lost_answers} answers were on their way to a kill"
        ),
        Figure("annotate_memory", peak / 1e6, "MB", 300, note="resident, with the store"),
        Figure("annotate_seconds", seconds, "s", note="with four starts, faults and their pauses"),
    ]


def answered_rows(path: Path) -> set[int]:
    """Numbers of the rows whose answer is in the store or in a ledger.

    A failed row has no answer, although its failure is recorded: the next run asks it again.
    """
    store = Store.open(path)
    found: set[int] = set()
    if "annotation_vlm" in store.columns:
        committed = enumerate(read_annotations(store, "vlm"))
        found = {row for row, one in committed if one is not None and one.status == "ok"}
    for number, start in first_rows(store).items():
        ledger = Ledger(path / LEDGERS / "vlm", number, Annotation.from_row)
        found |= {start + row for row, one in ledger.answers().items() if one.status == "ok"}
    return found


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
