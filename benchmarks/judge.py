"""Judging outputs: whether the client keeps 64 questions in flight, and what a run loses to kills.

    python benchmarks/judge.py [--json] [--cases 1000] [--latency 2]

The server is tests/support/fault_server.py in a process of its own. It answers after `latency` seconds, as a judge
does. Judging and bare aiohttp, which sends bodies that are ready, take turns.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from figures import Figure, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fault_server import Server, fault_server
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.judging.description import read_judge
from tagmoe.evaluate.judging.judge import Compared, Judge
from tagmoe.evaluate.judging.judgements import judge_run
from tagmoe.evaluate.metrics.metric import Pair
from tagmoe.evaluate.run_folder import Run, read_run
from tagmoe.vlm.chat import body_of, fields_of, messages_of
from tagmoe.vlm.servers import ChatServers

ROOT = Path(__file__).parents[1]
MODEL, IN_FLIGHT, ROUNDS, KILLS = "tiny-vlm", 64, 3, 10
PROGRAMME = """
import sys
from pathlib import Path
from tagmoe.evaluate.benchmarks.cases import read_prepared
from tagmoe.evaluate.judging.description import read_judge
from tagmoe.evaluate.judging.judge import Judge
from tagmoe.evaluate.judging.judgements import judge_run
from tagmoe.evaluate.run_folder import read_run
from tagmoe.vlm.servers import ChatServers
prepared = read_prepared(Path(sys.argv[1]))
judge = Judge(read_judge("vllmq"), ChatServers([sys.argv[3]], "tiny-vlm", concurrency=64))
judge_run(prepared, read_run(Path(sys.argv[2]), prepared), judge)
"""


def measure(cases: int, latency: float) -> Sequence[Figure]:
    """The rate beside bare aiohttp, then 10 kills of one run."""
    with tempfile.TemporaryDirectory(prefix="tagmoe-judge-") as name:
        folder = Path(name)
        prepared = tagworld_bench(folder / "bench", per_task=-(-cases // 25))
        run = anchor_run(prepared, "target", folder / "run")
        with fault_server(latency=latency, models=[MODEL]) as server:
            figures = rates(prepared, run, server, folder, latency)
        with fault_server(latency=0.2, models=[MODEL]) as server:
            return [*figures, *killed(prepared, run, server)]


def judge_of(server: Server) -> Judge:
    """vllmq at its own sizes of pictures: TagWorld's are scaled up to 512x512."""
    return Judge(read_judge("vllmq"), ChatServers([server.url], MODEL, concurrency=IN_FLIGHT))


def rates(prepared: Prepared, run: Run, server: Server, folder: Path, latency: float) -> list[Figure]:
    """Cases a second of both, in turn."""
    judge = judge_of(server)
    chosen = [case for case in prepared.cases if judge.why_not(case) is None]
    bodies = []
    for case in chosen:
        pair = Compared(Pair(case, run.picture(run.answers[case.key]), prepared))
        question = judge.questions(pair)[0].question
        bodies.append(body_of(fields_of(MODEL, question), messages_of(question), question))
    ours, bare, cpu = [], [], []
    for number in range(ROUNDS):
        for is_ours in (True, False) if number % 2 else (False, True):
            started, used = time.perf_counter(), time.process_time()
            if is_ours:
                judged = judge_run(prepared, run, judge_of(server), in_flight=IN_FLIGHT, out=folder / f"out-{number}")
                assert sum(judged.asked.values()) == len(chosen)
                ours.append(len(chosen) / (time.perf_counter() - started))
                cpu.append(1000 * (time.process_time() - used) / len(chosen))
            else:
                asyncio.run(post(server.url, bodies))
                bare.append(len(chosen) / (time.perf_counter() - started))
    share = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    note = f"{len(chosen):,} cases, {IN_FLIGHT} in flight, answers after {latency:g} s"
    most = float(psutil.Process().memory_info().rss) / 1e6
    return [
        Figure("rate_by_bare", share, "times", 0.95, at_least=True, runs=ROUNDS, note=note),
        Figure("cases_a_second", statistics.median(ours), "1/s", runs=ROUNDS, note=f"limit {IN_FLIGHT / latency:g}"),
        Figure(
            "client_cpu", statistics.median(cpu), "ms/case", runs=ROUNDS, note="decoding, scaling, encoding, asking"
        ),
        Figure("resident", most, "MB", note="of this process at the end, the prepared bodies among it"),
    ]


async def post(url: str, bodies: Sequence[bytes]) -> None:
    """Send all, 64 at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession() as session:

        async def one(body: bytes) -> None:
            async with slots:
                headers = {"Content-Type": "application/json"}
                async with session.post(f"{url}/chat/completions", data=body, headers=headers) as answer:
                    await answer.json()

        await asyncio.gather(*(one(body) for body in bodies))


def killed(prepared: Prepared, run: Run, server: Server) -> list[Figure]:
    """A run that is killed at random moments ends with the same answers, and asks nothing again that it has kept."""
    whole = run.folder.parent / "whole"
    judge_run(prepared, run, judge_of(server), out=whole)
    command = [sys.executable, "-c", PROGRAMME, str(prepared.folder), str(run.folder), server.url]
    random = np.random.default_rng(0)
    for _ in range(KILLS):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
        file = run.folder / "judged" / "vllmq.jsonl"
        before = file.stat().st_size if file.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if file.exists() and file.stat().st_size > before + random.integers(1, 20_000):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    judged = judge_run(prepared, read_run(run.folder, prepared), judge_of(server))
    digests = [
        hashlib.sha256((folder / part).read_bytes()).hexdigest()
        for part in ("judged/vllmq.jsonl", "scores/vllmq.jsonl")
        for folder in (whole, run.folder)
    ]
    equal = digests[0] == digests[1] and digests[2] == digests[3]
    return [
        Figure(
            "equal_after_kills", equal, "yes", 1, at_least=True, runs=KILLS, note="answers and scores, byte by byte"
        ),
        Figure("known_after_kills", judged.known, "cases", note=f"of {len(judged.rows):,}: these were not asked again"),
    ]


if __name__ == "__main__":
    report(
        measure,
        {
            "cases": {"type": int, "default": 1000, "help": "cases of TagWorld"},
            "latency": {"type": float, "default": 2.0, "help": "seconds before an answer"},
        },
    )
