"""Asking a vision-language model: the overhead of the client, and the rows a store loses to faults and kills.

    python benchmarks/annotate.py [--json] [--requests 3000] [--in-flight 64] [--rows 10000]

The server is tests/support/fault_server.py. It runs in a process of its own and answers after 50 ms. Our client and
bare aiohttp take turns in one child process, so that a busy machine slows both equally.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from figures import Figure, report
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fault_server import fault_server

from tagmoe.vlm.question import Attachment, Question

MODEL = "tiny-vlm"
LATENCY = 0.05
IN_FLIGHT = 64
CPU_MS = 1000 * LATENCY / IN_FLIGHT
"""CPU milliseconds that a request may cost. With more, one core cannot keep 64 requests in flight at this server."""
ROUNDS = 3
SIZES = {"55 KB": (512, 13.0), "3 KB": (96, 16.0)}
"""Side in pixels and standard deviation of the noise of a picture, by the size of its JPEG."""
SCHEMA = {
    "type": "object",
    "properties": {
        "scope": {"enum": ["local", "global"]},
        "types": {"type": "array", "items": {"enum": ["object", "attribute", "style"]}, "uniqueItems": True},
        "preserved": {"type": "array", "items": {"enum": ["structure", "background", "identity"]}},
    },
    "required": ["scope", "types", "preserved"],
    "additionalProperties": False,
}


def measure(requests: int = 3000, in_flight: int = IN_FLIGHT, rows: int = 10_000) -> Sequence[Figure]:
    """Compare the client with bare aiohttp, then annotate a store through faults and kills. Paired medians."""
    # Imported here, because at the top the measured child process would load the store and torch too.
    from annotate_rows import annotating

    with tempfile.TemporaryDirectory(prefix="tagmoe-annotate-") as name:
        return [*overhead(requests, in_flight), *annotating(Path(name), rows)]


@dataclass(frozen=True)
class Turns:
    """Figures of one child process: requests a second by round, CPU milliseconds a request, peak resident bytes."""

    client: list[float]
    bare: list[float]
    client_cpu: list[float]
    bare_cpu: list[float]
    resident: int


def overhead(requests: int, in_flight: int) -> list[Figure]:
    """Requests a second of `ChatServers` at a 50 ms server, as a share of the most that this server can answer.

    The most is in_flight / latency, the rate of a server without overhead. Where bare aiohttp gets less from this
    server process, its rate is the most.
    """
    limit = in_flight / LATENCY
    figures: list[Figure] = []
    for name in SIZES:
        with fault_server(latency=LATENCY) as server, _process() as child:
            turns = child.submit(_turns, server.url, name, requests, in_flight).result()
        ratio = statistics.median(
            ours / min(limit, theirs) for ours, theirs in zip(turns.client, turns.bare, strict=True)
        )
        rate, bare = statistics.median(turns.client), statistics.median(turns.bare)
        note = f"2 pictures of {name}, {in_flight} in flight, {requests} requests a round"
        figures += [
            Figure(f"share of the server's limit, {name}", ratio, "", 0.95, at_least=True, runs=ROUNDS, note=note),
            Figure(f"client, {name}", rate, "requests/s", runs=ROUNDS, note=f"limit {limit:g}"),
            Figure(f"bare aiohttp, {name}", bare, "requests/s", runs=ROUNDS, note="prepared bodies, replies not read"),
            Figure(f"client's CPU, {name}", statistics.median(turns.client_cpu), "ms/request", CPU_MS),
            Figure(f"bare aiohttp's CPU, {name}", statistics.median(turns.bare_cpu), "ms/request"),
            Figure(f"resident memory, {name}", turns.resident / 1e6, "MB", 300, note="most, of the asking process"),
        ]
    return figures


def _process() -> ProcessPoolExecutor:
    """A child process that has imported only what asking needs."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _turns(url: str, size: str, requests: int, in_flight: int) -> Turns:
    """Measure both clients in turns. All questions differ, as the pictures of a store do."""
    turns = Turns([], [], [], [], 0)
    asked = questions(size, requests)
    most = 0
    # Warm-up: files are opened and modules imported before the timed rounds.
    asyncio.run(_client(url, asked[:in_flight], in_flight))
    asyncio.run(_bare(url, asked[:in_flight], in_flight))
    for _ in range(ROUNDS):
        for run, rates, cpu in ((_bare, turns.bare, turns.bare_cpu), (_client, turns.client, turns.client_cpu)):
            seconds, busy, resident = asyncio.run(run(url, asked, in_flight))
            rates.append(requests / seconds)
            cpu.append(1000 * busy / requests)
            most = max(most, resident if run is _client else 0)
    return Turns(turns.client, turns.bare, turns.client_cpu, turns.bare_cpu, most)


def questions(size: str, count: int) -> list[Question]:
    """Questions as annotation asks them: two pictures, words and a schema. No two are equal."""
    side, noise = SIZES[size]
    pictures = [_jpeg(side, noise, number) for number in range(16)]
    words = "Image 1 is the source and image 2 the target. " * 40
    return [
        Question(
            (Attachment(pictures[number % 16]), Attachment(pictures[(number * 7 + 1) % 16]), f"{words}{number}"),
            system="You tag edits.",
            schema=SCHEMA,
        )
        for number in range(count)
    ]


def _jpeg(side: int, noise: float, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).normal(128, noise, (side // 4, side // 4, 3)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def _client(url: str, asked: Sequence[Question], in_flight: int) -> tuple[float, float, int]:
    """(seconds, CPU seconds, resident bytes at the end) for all questions."""
    from tagmoe.vlm.servers import ChatServers

    client = ChatServers([url], MODEL, concurrency=in_flight)
    waiting = iter(asked)

    async def worker() -> None:
        for question in waiting:
            answer = await client.ask(question)
            if answer.status != "ok":
                raise RuntimeError(f"the server was to answer everything: {answer}")

    started, busy = time.perf_counter(), time.process_time()
    # As `annotate` does: prepare twice as many questions as may be in flight, so that the next one is ready.
    await asyncio.gather(*(worker() for _ in range(2 * in_flight)))
    taken = time.perf_counter() - started, time.process_time() - busy, psutil.Process().memory_info().rss
    await client.close()
    return taken


async def _bare(url: str, asked: Sequence[Question], in_flight: int) -> tuple[float, float, int]:
    """The same requests by aiohttp alone: bodies are prepared before, replies are received and not parsed."""
    import aiohttp

    from tagmoe.vlm.chat import body_of, fields_of, messages_of

    bodies = [body_of(fields_of(MODEL, question), messages_of(question), question) for question in asked[:in_flight]]
    waiting = iter(range(len(asked)))

    async def worker() -> None:
        for number in waiting:
            async with session.post(f"{url}/chat/completions", data=bodies[number % len(bodies)], headers=kind) as got:
                await got.read()

    kind = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return time.perf_counter() - started, time.process_time() - busy, psutil.Process().memory_info().rss


if __name__ == "__main__":
    report(
        measure,
        {
            "requests": {"type": int, "default": 3000},
            "in-flight": {"type": int, "default": IN_FLIGHT},
            "rows": {"type": int, "default": 10_000, "help": "rows of the store that is annotated"},
        },
    )
