"""A real server of chat completions on loopback that judges TagWorld, and errs in a known way.

It knows the truth of every output by its picture; what it then says depends on its fault. It counts what it is asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.judging.description import JudgeDescription
from tagmoe.evaluate.judging.judge import encoded
from tagmoe.evaluate.judging.self_test import built_in_cases
from tagmoe.evaluate.run_folder import Run
from tagmoe.evaluate.scoring import read_scores

FAULTS = ("oracle", "noisy", "flatterer", "strict", "blind")
COMPARING_FAULTS = ("oracle", "first", "blind")
MODEL = "judge"


@dataclass
class ErringJudge:
    """truth: (instruction, digest of the output as it is sent) -> 1 or 0; what is not there is wrong. says: by the
    number of the question from 1, what is said whatever is asked; a number is the status of an error."""

    url: str
    fault: str
    truth: dict[tuple[str, str], float]
    says: dict[int, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, words: str, pictures: Sequence[str]) -> str:
        """What it says about pictures, by their digests."""
        instruction = words.split("The instruction of the edit: ")[-1].split("\n")[0]
        if "T for a tie" in words:
            return self._preferred(instruction, pictures[1], pictures[2])
        if "naturalness" in words:
            return json.dumps({"reasoning": "Sound.", "naturalness": 9, "soundness": 9})
        value = self._value(instruction, pictures[1])
        if '"restraint"' in words:
            return json.dumps({"reasoning": "Seen.", "success": 9 * value, "restraint": 9})
        return str(value)

    def _value(self, instruction: str, output: str) -> int:
        truth = int(self.truth.get((instruction, output), 0))
        chance = _chance(instruction, output)
        return {
            "oracle": truth,
            "noisy": 1 - truth if chance < 15 else truth,
            "flatterer": 1 if chance < 85 else truth,
            "strict": 0 if chance < 50 else truth,
            "blind": chance % 2,
        }[self.fault]

    def _preferred(self, instruction: str, a: str, b: str) -> str:
        if self.fault == "first":
            return "A"
        if self.fault == "blind":
            return "A" if _chance(instruction, a) < _chance(instruction, b) else "B"
        first, second = (self.truth.get((instruction, output), 0) for output in (a, b))
        return "T" if first == second else "A" if first > second else "B"


def _chance(*words: str) -> int:
    return int(hashlib.sha256("\n".join(words).encode()).hexdigest(), 16) % 100


def truths_of(description: JudgeDescription, prepared: Prepared, runs: Sequence[Run]) -> dict[tuple[str, str], float]:
    """The truth of the outputs of runs that the oracle has scored, and of the self-test's right answers."""

    def sent(picture: Any) -> str:
        return hashlib.sha256(encoded(picture, description.least_pixels, description.most_pixels)).hexdigest()

    found = {(one.case.instruction, sent(one.pictures["output"])): 1.0 for one in built_in_cases()}
    for run in runs:
        scores = read_scores(run, ["oracle"])["oracle"]
        for case in prepared.cases:
            if case.key in scores and "success" in scores[case.key].values:
                picture = run.picture(run.answers[case.key])
                found[case.instruction, sent(picture)] = scores[case.key].values["success"]
    return found


@contextmanager
def erring_judge(fault: str, truth: dict[tuple[str, str], float]) -> Iterator[ErringJudge]:
    """The server, in a thread of its own."""
    judge = ErringJudge("", fault, truth)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def completions(request: web.Request) -> web.Response:
        parts = (await request.json())["messages"][-1]["content"]
        words = "\n".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        pictures = [hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest() for url in urls]
        judge.asked["questions"] += 1
        said = judge.says.get(judge.asked["questions"], judge.says.get(0))
        if isinstance(said, int):
            return web.json_response({"error": {"message": "no"}}, status=said)
        content = said if said is not None else judge.answer(words, pictures)
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
        return web.json_response(
            {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        )

    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", completions)])
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        judge.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield judge
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
