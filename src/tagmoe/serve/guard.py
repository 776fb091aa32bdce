"""What stands before every route: keys, or for a server without keys the check that the request is from this machine.

A page in a browser may send requests to a server on the same machine, and may give its own name that machine's address.
So without keys the Host must name this machine, and an Origin must be the server's own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from tagmoe.serve.metrics import Metrics
from tagmoe.serve.refusal import Refusal

OPEN = ("/health",)
"""Routes that need no key: they say nothing but that the server runs."""
ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/models", "/health", "/metrics", "/openapi.json")


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Keys:
    """Bearer keys, kept as digests. The time of a check does not depend on how much of a key is right."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, header: str | None) -> bool:
        """Whether an Authorization header holds one of the keys. All are compared, whichever fits."""
        kind, _, given = (header or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = [hmac.compare_digest(digest, own) for own in self._digests]
        return any(found) and kind.lower() == "bearer"


class Guard:
    """An ASGI application around another: refuse who may not ask, add what every answer has, count."""

    def __init__(self, app: Any, keys: Keys, metrics: Metrics, model: str) -> None:
        self._app, self._keys, self._metrics, self._model = app, keys, metrics, model

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        started, status = time.perf_counter(), 500

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [
                    (b"x-tagmoe-model", self._model.encode("ascii", "replace")),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            refusal = self._refusal(Headers(scope=scope), scope["path"])
            if refusal is None:
                await self._app(scope, receive, answer)
            else:
                refused = JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)
                await refused(scope, receive, answer)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, headers: Headers, path: str) -> Refusal | None:
        if path in OPEN:
            return None
        if self._keys:
            if self._keys.accept(headers.get("authorization")):
                return None
            return Refusal(
                "The API key is missing or wrong; send Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_local(name):
            return Refusal("This server answers its own machine only; ask 127.0.0.1.", status=403, code="foreign_host")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return Refusal("Pages of other sites may not use this server.", status=403, code="foreign_origin")
        return None
