"""A server of OpenAI's images protocol on loopback, in a thread: it draws a picture from the request, or fails as told.

It reads real HTTP requests (JSON and multipart) and knows nothing of the client under test.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from PIL import Image


@dataclass
class ImagesServer:
    """url: its address. faults: {text in the prompt: list of what its next requests get, then pictures}: a status, a
    dict (status, body, headers), or bytes (the body of a 200). requests: what came, in order."""

    url: str = ""
    models: list[str] | None = field(default_factory=lambda: ["tiny-editor"])
    key: str | None = None
    latency: float = 0.0
    faults: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def asked(self) -> Counter[str]:
        """How many requests there were by prompt."""
        return Counter(request["prompt"] for request in self.requests)

    async def list_models(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        if self.models is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def draw(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._draw(request)
        finally:
            self.in_flight -= 1

    async def _draw(self, request: web.Request) -> web.Response:
        asked = await (_form(request) if request.content_type.startswith("multipart") else request.json())
        self.requests.append({**asked, "path": request.path})
        await asyncio.sleep(self.latency)
        waiting = next((rest for text, rest in self.faults.items() if text in asked["prompt"]), [])
        if waiting:
            fault = waiting.pop(0)
            if isinstance(fault, bytes):
                return web.Response(body=fault, content_type="application/json")
            fault = {"status": fault} if isinstance(fault, int) else fault
            body = fault.get("body", {"error": {"message": f"error {fault['status']}"}})
            return web.json_response(body, status=fault["status"], headers=fault.get("headers"))
        seen = repr((asked["prompt"], asked.get("seed"), asked.get("pictures"))).encode()
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), tuple(hashlib.sha256(seen).digest()[:3])).save(buffer, format="PNG")
        return web.json_response({"created": 0, "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]})


async def _form(request: web.Request) -> dict[str, Any]:
    """The fields of a multipart request, and the SHA-256 of each picture's bytes."""
    found: dict[str, Any] = {"pictures": []}
    async for part in await request.multipart():
        data = await part.read(decode=True)
        if part.filename:
            with Image.open(io.BytesIO(data)) as picture:
                found["pictures"].append((part.name, picture.size))
        else:
            found[part.name] = data.decode()
    return found


@contextmanager
def images_server(**settings: Any) -> Iterator[ImagesServer]:
    """A running server."""
    server = ImagesServer(**settings)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/v1/models", server.list_models)
    app.router.add_post("/v1/images/edits", server.draw)
    app.router.add_post("/v1/images/generations", server.draw)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=1)

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    server.url = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
