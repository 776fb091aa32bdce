"""What the images server costs and bears, on loopback: throughput, latency, overload, malformed bodies.

    python benchmarks/serve.py [--json] [--only throughput latency overload malformed] [--rounds 3] [--seconds 60]

The server is `tagmoe serve` with the packaged model, in a process of its own. OpenAI's client asks it, and for the
overload aiohttp. The bare pipeline runs in this process, in turn with the server. Where all share one core, the work of
the client counts against the server: it stands in the notes.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from figures import Figure, report
from openai import AsyncOpenAI, OpenAI
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.malformed import send

from tagmoe.pictures import png_of
from tagmoe.world import sample

BATCH, QUEUE = 8, 32
TIMES = 10
"""How many times more is asked in the overload than the server can draw."""
SETTLING = 10.0
"""Seconds until the memory of an overloaded server counts: buffers and caches fill before."""


@dataclass
class Server:
    """A server that runs: where, and its process."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def serving() -> Iterator[Server]:
    """`tagmoe serve` with the packaged model, warm."""
    words = ["serve", "--port", "0", "--no-page", "--threads", "1", "--batch", str(BATCH), "--queue", str(QUEUE)]
    command = [sys.executable, "-c", "from tagmoe.cli import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                break
        else:
            raise RuntimeError(f"tagmoe serve ended: {said[-500:]}")
        # A full pipe would stop the server.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Server(int(found[1]), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(90)


@dataclass
class Work:
    """One edit that everybody draws: its instruction, its picture and its steps."""

    instruction: str
    picture: Image.Image
    steps: int
    png: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.png = png_of(self.picture)

    def options(self, seed: int) -> dict[str, Any]:
        """Arguments of OpenAI's `images.edit`."""
        extra = {"seed": seed, "steps": self.steps}
        return {"model": "m", "image": ("x.png", self.png), "prompt": self.instruction, "extra_body": extra}


def make_work(seed: int, steps: int) -> Work:
    """A recolouring of TagWorld."""
    case = sample(seed, 0, split="test", task="recolour")
    return Work(case.instruction, Image.fromarray(case.sources[0]), steps)


class Bare:
    """The pipeline without a server, as `load_model` gives it."""

    def __init__(self, work: Work) -> None:
        from tagmoe.cli.models import load_model

        self._work, self._pipeline = work, load_model(None, threads=1)
        self._pipeline.set_progress_bar_config(disable=True)
        self(1)

    def __call__(self, pictures: int) -> float:
        """Seconds to draw so many pictures together."""
        started = time.perf_counter()
        self._pipeline(
            [self._work.instruction] * pictures,
            [[self._work.picture]] * pictures,
            num_inference_steps=self._work.steps,
            seed=list(range(pictures)),
        )
        return time.perf_counter() - started


@dataclass(frozen=True)
class Steady:
    """A server that is never idle. speed: pictures a second. ours, client: CPU seconds a picture of both processes."""

    speed: float
    ours: float
    client: float


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process."""
    times = process.cpu_times()
    return times.user + times.system


async def saturate(server: Server, work: Work, batches: int) -> Steady:
    """Ask with three batches in flight; what comes between the ends of two batches counts."""
    client = AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120)
    ended: list[float] = []
    seeds = iter(range(10**9))
    first, last = 2 * BATCH, (2 + batches) * BATCH
    enough = asyncio.Event()
    used: dict[int, tuple[float, float]] = {}

    async def ask() -> None:
        while not enough.is_set():
            await client.images.edit(**work.options(next(seeds)))
            ended.append(time.perf_counter())
            if len(ended) in (first, last):
                used[len(ended)] = (cpu_of(server.process), time.process_time())
            if len(ended) >= last:
                enough.set()

    workers = [asyncio.create_task(ask()) for _ in range(3 * BATCH)]
    watch = asyncio.create_task(enough.wait())
    # A worker ends only by an error, which must not be waited for.
    await asyncio.wait([watch, *workers], return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        worker.cancel()
    ends = await asyncio.gather(*workers, return_exceptions=True)
    if errors := [end for end in ends if isinstance(end, Exception)]:
        raise errors[0]
    await client.close()
    pictures = last - first
    ours, client_cpu = (used[last][place] - used[first][place] for place in (0, 1))
    # Answers of a batch come together, so the time is counted from the end of one batch to that of another.
    return Steady(pictures / (ended[last - 1] - ended[first - 1]), ours / pictures, client_cpu / pictures)


def throughput(server: Server, bare: Bare, work: Work, rounds: int, batches: int) -> list[Figure]:
    """Pictures a second of a server whose queue is never empty, beside the pipeline with the same batch, in turn."""
    asyncio.run(saturate(server, work, 1))
    bare(BATCH)
    pictures = batches * BATCH
    served: list[Steady] = []
    plain: list[float] = []
    plain_cpu: list[float] = []

    def draw_bare() -> None:
        before = time.process_time()
        plain.append(pictures / sum(bare(BATCH) for _ in range(batches)))
        plain_cpu.append((time.process_time() - before) / pictures)

    turns: list[Callable[[], None]] = [draw_bare, lambda: served.append(asyncio.run(saturate(server, work, batches)))]
    for number in range(rounds):
        for turn in turns if number % 2 else reversed(turns):
            turn()
    ratios = [ours.speed / other for ours, other in zip(served, plain, strict=True)]
    by_cpu = [other / ours.ours for ours, other in zip(served, plain_cpu, strict=True)]
    note = f"batches of {BATCH}; {', '.join(f'{ratio:.3f}' for ratio in ratios)}"
    client = 1000 * statistics.median(ours.client for ours in served)
    return [
        Figure("throughput_by_bare", statistics.median(ratios), "times", 0.95, at_least=True, runs=rounds, note=note),
        Figure(
            "bare_cpu_by_server_cpu",
            statistics.median(by_cpu),
            "times",
            runs=rounds,
            note="CPU time a picture, without the client's; other work on the machine changes it less",
        ),
        Figure("pictures_a_second", statistics.median(ours.speed for ours in served), "1/s", runs=rounds),
        Figure("client_cpu", client, "ms/picture", runs=rounds, note="of this process; on one core it counts above"),
    ]


def latency(server: Server, bare: Bare, work: Work, pairs: int) -> list[Figure]:
    """How much longer a request takes than the pipeline where nothing else is asked. Pairs, in turn."""
    client = OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120)

    def served() -> tuple[float, float]:
        """Seconds, and CPU seconds of both processes."""
        started, before = time.perf_counter(), time.process_time() + cpu_of(server.process)
        answer = client.images.edit(**work.options(0))
        base64.b64decode(answer.data[0].b64_json)
        return time.perf_counter() - started, time.process_time() + cpu_of(server.process) - before

    def plain() -> tuple[float, float]:
        before = time.process_time()
        return bare(1), time.process_time() - before

    served(), plain()
    measured = []
    for number in range(pairs):
        if number % 2:
            ours, other = served(), plain()
        else:
            other, ours = plain(), served()
        measured.append((ours, other))
    over = [1000 * (ours[0] - other[0]) for ours, other in measured]
    cpu = [1000 * (ours[1] - other[1]) for ours, other in measured]
    low, _, high = statistics.quantiles(over, n=4)
    seconds = statistics.median(other[0] for _, other in measured)
    note = f"paired median, quartiles {low:.1f} to {high:.1f}; bare {seconds:.3f} s"
    return [
        Figure("idle_latency_over_bare", statistics.median(over), "ms", 20, runs=pairs, note=note),
        Figure(
            "idle_cpu_over_bare",
            statistics.median(cpu),
            "ms",
            runs=pairs,
            note="of server and client; the kernel counts in steps of 10, the wait for a batch is not in it",
        ),
    ]


@dataclass
class Load:
    """What became of an overload. rejected: seconds until each 429. late: seconds that a request was sent too late."""

    statuses: Counter[int] = field(default_factory=Counter)
    rejected: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)


async def overloaded(server: Server, work: Work, rate: float, seconds: float) -> Load:
    """Ask at a fixed rate, whatever is answered, and wait for every answer."""
    import aiohttp

    load, started = Load(), time.perf_counter()

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        form = aiohttp.FormData()
        for name, value in {"prompt": work.instruction, "seed": str(number), "steps": str(work.steps)}.items():
            form.add_field(name, value)
        form.add_field("image", work.png, filename="x.png", content_type="image/png")
        sent = time.perf_counter()
        try:
            async with session.post(f"{server.url}/images/edits", data=form) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        load.statuses[status] += 1
        if status == 429:
            load.rejected.append(time.perf_counter() - sent)

    async def watch() -> None:
        while True:
            load.memory.append((time.perf_counter() - started, server.process.memory_info().rss))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connections, timeout=aiohttp.ClientTimeout(total=180)) as session:
        asked: list[Awaitable[None]] = []
        for number in range(round(rate * seconds)):
            due = started + number / rate
            await asyncio.sleep(max(0, due - time.perf_counter()))
            load.late.append(time.perf_counter() - due)
            asked.append(asyncio.create_task(ask(session, number)))
        await asyncio.gather(*asked)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return load


def overload(server: Server, work: Work, seconds: float) -> list[Figure]:
    """Ten times what the server can draw: statuses, time of a rejection, memory."""
    rate = TIMES * asyncio.run(saturate(server, work, 2)).speed
    load = asyncio.run(overloaded(server, work, rate, seconds))
    drawn, rejected = load.statuses[200], load.statuses[429]
    others = {status: count for status, count in load.statuses.items() if status not in (200, 429)}
    p99 = 1000 * statistics.quantiles(load.rejected, n=100)[98]
    tenth = [rss for when, rss in load.memory if SETTLING <= when < SETTLING + (seconds - SETTLING) / 4]
    last = [rss for when, rss in load.memory if when >= seconds - (seconds - SETTLING) / 4]
    growth = 100 * (statistics.median(last) / statistics.median(tenth) - 1)
    late = 1000 * statistics.quantiles(load.late, n=100)[98]
    note = f"{rate:.0f} requests/s for {seconds:g} s, {drawn} drawn, {rejected} rejected"
    return [
        Figure("overload_neither_200_nor_429", sum(others.values()), "answers", 0, note=f"{note}; {others or 'none'}"),
        Figure("overload_rejected_p99", p99, "ms", 50, runs=rejected, note=f"the client itself was late by {late:.0f}"),
        Figure("overload_rejected_median", 1000 * statistics.median(load.rejected), "ms", runs=rejected),
        Figure("overload_memory_growth", growth, "%", 2, note=f"at the end {statistics.median(last) / 2**20:.0f} MiB"),
    ]


def malformed(server: Server, work: Work, bodies: int, seed: int) -> list[Figure]:
    """Bodies with damage: faults of the server, and file handles that stay open."""
    dice = random.Random(seed)
    for _ in range(20):
        send(server.port, dice, work.instruction)
    before = server.process.num_fds()
    statuses = Counter(send(server.port, dice, work.instruction) for _ in range(bodies))
    wrong = sum(count for status, count in statuses.items() if status >= 500 or status == 0)
    # The last connection may still be closing.
    end = time.monotonic() + 5
    while server.process.num_fds() > before and time.monotonic() < end:
        time.sleep(0.1)
    note = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    return [
        Figure("malformed_5xx_or_none", wrong, "answers", 0, runs=bodies, note=note),
        Figure("malformed_handles_left", server.process.num_fds() - before, "handles", 0, runs=bodies),
    ]


PARTS = ("throughput", "latency", "overload", "malformed")


def measure(only: list[str] | None, rounds: int, pairs: int, seconds: float, bodies: int, seed: int) -> list[Figure]:
    """What the images server costs and bears, on loopback."""
    work = make_work(seed, steps=12)
    parts: Sequence[str] = only or PARTS
    figures: list[Figure] = []
    cores = len(os.sched_getaffinity(0))
    print(f"Client and server have {cores} core(s) together.", file=sys.stderr)
    with serving() as server:
        bare = Bare(work) if {"throughput", "latency"} & set(parts) else None
        if bare is not None and "throughput" in parts:
            figures += throughput(server, bare, work, rounds, batches=4)
        if bare is not None and "latency" in parts:
            figures += latency(server, bare, work, pairs)
        if "overload" in parts:
            figures += overload(server, work, seconds)
        if "malformed" in parts:
            figures += malformed(server, work, bodies, seed)
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "only": {"nargs": "+", "choices": PARTS, "help": "these parts alone"},
            "rounds": {"type": int, "default": 3, "help": "pairs of the throughput"},
            "pairs": {"type": int, "default": 31, "help": "pairs of the latency"},
            "seconds": {"type": float, "default": 60, "help": "of the overload"},
            "bodies": {"type": int, "default": 1000, "help": "malformed bodies"},
            "seed": {"type": int, "default": 0, "help": "of the scene and of the bodies"},
        },
    )
