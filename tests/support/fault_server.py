"""A chat-completions server that answers by a script and fails on purpose, for tests and benchmarks of who asks.

As a process on loopback; it prints its port on one line:

    python tests/support/fault_server.py --port 0 --latency 0.05 --script script.json

From a test or a benchmark, with the settings as keywords:

    with fault_server(latency=0.05, faults={"429": 0.1, "hang": 0.02}) as server:
        ...ask server.url...
        server.counts()["repeats_after_success"]
        server.set(faults={})         # other settings from now on, at once
        server.clear()                # counts start anew

Settings (all optional, the JSON object of --script, POST /settings, `fault_server`, `set`):
    latency      seconds before an answer
    seed         of the faults
    models       names served, by default ["tiny-vlm"]
    key          the key wanted as bearer, null for none
    vision       false: pictures are refused as vLLM does for a model of text
    faults       {name of FAULTS: rate}; drawn from (seed, request, number of times that this request came), so that a
                 repeat is drawn anew and the order of the requests changes nothing
    retry_after  value of the header Retry-After with 429 and 503; "date:SECONDS" makes an HTTP date of it, null none
    reject       fields of the request that are refused, as by a server that does not know them
    reject_as    how: {"status": number, "body": JSON in which NAME stands for the field}
    logprobs     false: no log-probabilities, as by a server that has none
    rules        list; the first that fits decides. {"contains": text in the words of the request, "picture": SHA-256 of
                 one of its pictures, "fault": name, "times": only the first N times that the request comes,
                 "content": the answer, text as it is and other values as JSON, "probabilities": {word: p} for choices,
                 "after": only from the request of this number on, "status": the status of a refusal with "body" (JSON),
                 "message": fields of the message, where ANSWER stands for the answer}
Without a rule with content the answer is made from the schema (drawn from the request), or is the first choice, or
"ok". GET /counts: requests, successes (whole answers to a client that was still there, of any content but those of
REFUSED and BROKEN), repeats_after_success, images, schemas, choices, most_in_flight, faults by name, statuses, and
`keys`: by digest of the whole request {"requests", "successes", "text": end of the last text part}.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import hashlib
import json
import math
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from aiohttp import web

ERRORS = ("400", "408", "413", "422", "429", "500", "502", "503")
LOST = ("hang", "reset", "half_body", "not_json")
BROKEN = ("half_json", "wrong_schema", "truncated", "empty")
"""A whole reply, in which the model said something of no use."""
REFUSED = ("refusal", "content_filter")
HARMLESS = ("fenced",)
"""The right answer in a code fence."""
FAULTS = ERRORS + LOST + BROKEN + REFUSED + HARMLESS
MESSAGES = {"400": "cannot identify image file", "429": "rate limit reached", "500": "internal error"}


@dataclass
class Settings:
    """What the server does; the fields are described at the top of the file."""

    latency: float = 0.0
    seed: int = 0
    models: list[str] = field(default_factory=lambda: ["tiny-vlm"])
    key: str | None = None
    vision: bool = True
    faults: dict[str, float] = field(default_factory=dict)
    retry_after: str | None = "0.05"
    reject: list[str] = field(default_factory=list)
    reject_as: dict[str, Any] = field(
        default_factory=lambda: {
            "status": 400,
            "body": {"error": {"message": "Unexpected fields in the request: {'NAME'}", "code": 400}},
        }
    )
    logprobs: bool = True
    rules: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = {*self.faults, *(rule["fault"] for rule in self.rules if "fault" in rule)} - {*FAULTS}
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; there are {', '.join(FAULTS)}")


class Counts:
    """What came and what was answered."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.keys: dict[str, dict[str, Any]] = {}
        self.in_flight = 0

    def to_dict(self) -> dict[str, Any]:
        names = ("requests", "successes", "repeats_after_success", "images", "schemas", "choices", "most_in_flight")
        return {name: self.totals[name] for name in names} | {
            "faults": dict(self.faults),
            "statuses": dict(self.statuses),
            "keys": self.keys,
        }


class Scripted:
    """The handlers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts = Counts()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/counts", self.report)
        app.router.add_delete("/counts", self.clear)
        app.router.add_post("/settings", self.change)
        return app

    async def report(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts.to_dict())

    async def clear(self, request: web.Request) -> web.Response:
        self.counts = Counts()
        return web.Response()

    async def change(self, request: web.Request) -> web.Response:
        self.settings = Settings(**{**vars(self.settings), **await request.json()})
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, "Incorrect API key provided: " + request.headers.get("Authorization", "none"))
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.settings.models]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        counts = self.counts
        counts.in_flight += 1
        counts.totals["most_in_flight"] = max(counts.totals["most_in_flight"], counts.in_flight)
        try:
            return await self._chat(request, counts)
        finally:
            counts.in_flight -= 1

    async def _chat(self, request: web.Request, counts: Counts) -> web.StreamResponse:
        settings = self.settings
        raw = await request.read()
        counts.totals["requests"] += 1
        key = hashlib.sha256(raw).hexdigest()[:16]
        body = json.loads(raw)
        words, pictures = _parts(body)
        seen = counts.keys.setdefault(key, {"requests": 0, "successes": 0, "text": words[-1][-200:] if words else ""})
        seen["requests"] += 1
        counts.totals["images"] += len(pictures)
        counts.totals["schemas"] += "response_format" in body
        counts.totals["choices"] += "structured_outputs" in body
        counts.totals["repeats_after_success"] += seen["successes"] > 0
        rule = self._rule(words, pictures)
        fault = self._fault(rule, key, seen["requests"])
        if fault is not None:
            counts.faults[fault] += 1
        if settings.latency:
            await asyncio.sleep(settings.latency)
        refused = self._refused(request, body, pictures)
        if refused is None and "status" in rule:
            refused = web.json_response(rule["body"], status=rule["status"])
        if fault in LOST and refused is None:
            return await _lose(request, fault)
        if refused is None and fault in ERRORS:
            refused = _error(int(fault), MESSAGES.get(fault, f"error {fault}"), self._headers(fault))
        if refused is not None:
            counts.statuses[str(refused.status)] += 1
            return refused
        response = web.json_response(_completion(body, rule, fault, key, settings.logprobs))
        await response.prepare(request)
        await response.write_eof()
        counts.statuses["200"] += 1
        gone = request.transport is None or request.transport.is_closing()
        if not gone and fault not in BROKEN + REFUSED:
            counts.totals["successes"] += 1
            seen["successes"] += 1
        return response

    def _allowed(self, request: web.Request) -> bool:
        return self.settings.key is None or request.headers.get("Authorization") == f"Bearer {self.settings.key}"

    def _refused(self, request: web.Request, body: Mapping[str, Any], pictures: list[bytes]) -> web.Response | None:
        if not self._allowed(request):
            return _error(401, "Incorrect API key provided: " + request.headers.get("Authorization", "none"))
        if body.get("model") not in self.settings.models:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        for name in self.settings.reject:
            if name in body:
                text = json.dumps(self.settings.reject_as["body"]).replace("NAME", name)
                return web.json_response(text=text, status=self.settings.reject_as["status"])
        if pictures and not self.settings.vision:
            return _error(400, f"{body['model']} is not a multimodal model")
        return None

    def _rule(self, words: list[str], pictures: list[bytes]) -> dict[str, Any]:
        if not self.settings.rules:
            return {}
        text = "\n".join(words)
        digests = {hashlib.sha256(data).hexdigest() for data in pictures}
        for rule in self.settings.rules:
            late = self.counts.totals["requests"] > rule.get("after", 0)
            if late and rule.get("contains", "") in text and ("picture" not in rule or rule["picture"] in digests):
                return rule
        return {}

    def _fault(self, rule: Mapping[str, Any], key: str, number: int) -> str | None:
        if "fault" in rule and number <= rule.get("times", math.inf):
            return str(rule["fault"])
        if not self.settings.faults or "fault" in rule:
            return None
        drawn = _uniform(f"{self.settings.seed} {key} {number}")
        for name, rate in self.settings.faults.items():
            drawn -= rate
            if drawn < 0:
                return name
        return None

    def _headers(self, fault: str) -> dict[str, str]:
        value = self.settings.retry_after
        if value is None or fault not in ("429", "503"):
            return {}
        if value.startswith("date:"):
            value = formatdate(time.time() + float(value[5:]), usegmt=True)
        return {"Retry-After": value}


def _parts(body: Mapping[str, Any]) -> tuple[list[str], list[bytes]]:
    """Words and pictures of all messages; a picture that is no base64 data URL raises."""
    words: list[str] = []
    pictures: list[bytes] = []
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                words.append(part["text"])
                continue
            head, _, data = part["image_url"]["url"].partition(",")
            if not head.startswith("data:image/") or not head.endswith(";base64"):
                raise web.HTTPBadRequest(text="a picture is no data URL")
            pictures.append(binascii.a2b_base64(data))
    return words, pictures


def _completion(body: Mapping[str, Any], rule: Mapping[str, Any], fault: str | None, key: str, scored: bool) -> Any:
    choices, schema = _wanted(body)
    value = rule["content"] if "content" in rule else _made(schema, key) if schema else choices[0] if choices else "ok"
    text = value if isinstance(value, str) and (not schema or "content" in rule) else json.dumps(value)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    finish = "stop"
    if fault in ("half_json", "truncated"):
        message["content"] = text[: len(text) // 2]
        finish = "length" if fault == "truncated" else "stop"
    elif fault == "wrong_schema":
        message["content"] = json.dumps({"unexpected": [1, 2, 3]})
    elif fault == "empty":
        message["content"] = None
    elif fault == "fenced":
        message["content"] = f"Here it is:\n```json\n{text}\n```\n"
    elif fault == "refusal":
        message |= {"content": None, "refusal": "I cannot help with this."}
    elif fault == "content_filter":
        message["content"] = ""
        finish = "content_filter"
    message |= json.loads(json.dumps(rule.get("message", {})).replace('"ANSWER"', json.dumps(text)))
    reply: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
    if body.get("logprobs") and scored:
        likely = rule.get("probabilities") or {text: 0.75, **dict.fromkeys((c for c in choices if c != text), 0.125)}
        top = [{"token": token, "logprob": math.log(p), "bytes": list(token.encode())} for token, p in likely.items()]
        reply["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": key, "object": "chat.completion", "model": body["model"], "choices": [reply], "usage": usage}


def _wanted(body: Mapping[str, Any]) -> tuple[list[str], Any]:
    """The choices and the schema that a request asks for."""
    choices = (body.get("structured_outputs") or {}).get("choice") or []
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    return choices, schema


def _made(schema: Mapping[str, Any], seed: str) -> Any:
    """A value of a schema of the usual kinds, drawn from a seed."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][int(_uniform(seed) * len(schema["enum"]))]
    for some in ("anyOf", "oneOf"):
        if some in schema:
            return _made(schema[some][0], seed)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _made(part, f"{seed}.{name}") for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems", 2)
        count = max(low, min(high, low + int(_uniform(seed + "[]") * 3)))
        items = [_made(schema.get("items", {}), f"{seed}[{number}]") for number in range(count)]
        unique = list({json.dumps(item, sort_keys=True): item for item in items}.values())
        return unique if schema.get("uniqueItems") and len(unique) >= low else items
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 1)
        value = low + _uniform(seed) * (high - low)
        return round(value) if kind == "integer" else value
    if kind == "boolean":
        return _uniform(seed) < 0.5
    return None if kind == "null" else f"text {seed[:8]}"[: schema.get("maxLength", 100)]


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / (1 << 48)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers or {})


async def _lose(request: web.Request, fault: str) -> web.StreamResponse:
    """Never answer, reset the connection, send half a reply or a page of a proxy."""
    if fault == "hang":
        await asyncio.Event().wait()
    if fault == "not_json":
        return web.Response(text="<html><body>gateway</body></html>", content_type="text/html")
    transport = request.transport
    if fault == "half_body" and transport is not None:
        response = web.StreamResponse()
        response.content_length = 400
        await response.prepare(request)
        await response.write(b'{"choices": [{"mess')
        transport.close()
        return response
    if transport is not None:
        # closing with a linger time of zero sends RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


class Server:
    """A running fault server: `url` is what an endpoint option takes."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self.process = process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, Any]:
        """What came and was answered since the start or `clear`."""
        return dict(json.loads(self._call("/counts")))

    def set(self, **settings: Any) -> None:
        """Change some settings; the others stay."""
        self._call("/settings", json.dumps(settings).encode())

    def clear(self) -> None:
        """All counts start anew."""
        self._call("/counts", method="DELETE")

    def _call(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())


@contextmanager
def fault_server(**settings: Any) -> Iterator[Server]:
    """A fault server in a process of its own, ended with the block."""
    command = [sys.executable, str(Path(__file__).resolve()), "--settings", json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(int(process.stdout.readline()), process)
        finally:
            process.kill()


async def _serve(settings: Settings, port: int) -> None:
    # a client that leaves ends its handler: what it did not get is not counted as success
    runner = web.AppRunner(Scripted(settings).app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat completions by a script, with faults.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--latency", type=float, help="seconds before an answer")
    parser.add_argument("--script", type=Path, help="JSON file of settings")
    parser.add_argument("--settings", default="{}", help="the same as JSON text")
    given = parser.parse_args()
    settings = json.loads(given.script.read_text()) if given.script else {}
    settings |= json.loads(given.settings)
    if given.latency is not None:
        settings["latency"] = given.latency
    asyncio.run(_serve(Settings(**settings), given.port))


if __name__ == "__main__":
    main()
