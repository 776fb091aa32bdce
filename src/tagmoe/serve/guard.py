"""What stands before every route: keys, or for a server without keys the check that the request is from this machine.

A page in a browser may send requests to a server on the same machine, and may give its own name that machine's address.
So without keys the Host must name this machine, and an Origin must be the server's own.

The server's own page lies behind the same guard. With keys a browser asks for one as a password, with any user name
(HTTP's basic authentication); it sends that along by itself, so the Origin counts there too, and the API takes none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from tagmoe.serve.limits import Limits
from tagmoe.serve.metrics import Metrics
from tagmoe.serve.refusal import Refusal

OPEN = ("/health",)
"""Routes that need no key: they say nothing but that the server runs."""
ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/models", "/health", "/metrics", "/openapi.json")
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
"""What a browser may load for the page: nothing from another machine, whatever Gradio asks for."""


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

    def accept_password(self, header: str | None) -> bool:
        """Whether an Authorization header of basic authentication holds one of the keys as its password."""
        kind, _, given = (header or "").partition(" ")
        try:
            password = base64.b64decode(given.strip(), validate=True).decode("utf-8", "replace").partition(":")[2]
        except ValueError:
            password = ""
        return self.accept(f"Bearer {password}") and kind.lower() == "basic"


@dataclass(frozen=True)
class Page:
    """The web page beside the API: its application, and which paths belong to it."""

    app: Any
    belongs: Callable[[str], bool]


class Guard:
    """An ASGI application around another: refuse who may not ask, add what every answer has, count.

    page: what answers the other paths. limits: of the bodies of the page; the API reads its own.
    """

    def __init__(
        self, app: Any, keys: Keys, metrics: Metrics, model: str, limits: Limits, page: Page | None = None
    ) -> None:
        self._app, self._keys, self._metrics, self._model = app, keys, metrics, model
        self._limits, self._page = limits, page

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        of_page = self._page is not None and path not in ROUTES and self._page.belongs(path)
        route = path if path in ROUTES else "page" if of_page else "other"
        started, status = time.perf_counter(), 500

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [
                    (b"x-tagmoe-model", self._model.encode("ascii", "replace")),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if of_page:
                    own.append((b"content-security-policy", CONTENT_POLICY.encode()))
                    own.append((b"referrer-policy", b"no-referrer"))
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            refusal = self._refusal(Headers(scope=scope), path, of_page=of_page)
            if refusal is None and of_page and self._page is not None:
                await self._page.app(scope, bounded(receive, self._limits), answer)
            elif refusal is None:
                await self._app(scope, receive, answer)
            else:
                refused = JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)
                await refused(scope, receive, answer)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, headers: Headers, path: str, *, of_page: bool) -> Refusal | None:
        if path in OPEN:
            return None
        if self._keys and not of_page:
            if self._keys.accept(headers.get("authorization")):
                return None
            return _no_key("Bearer", "send Authorization: Bearer KEY")
        if self._keys:
            given = headers.get("authorization")
            if not self._keys.accept(given) and not self._keys.accept_password(given):
                return _no_key('Basic realm="tagmoe: any name, and a key as the password"', "give it as the password")
        return foreign(headers, is_public=bool(self._keys))


def foreign(headers: Headers, *, is_public: bool) -> Refusal | None:
    """Why a request may not be answered, if it is of a page of another site, or of another machine than this one.

    is_public: other machines may ask, so that only the Origin counts.
    """
    host = headers.get("host", "")
    if not is_public:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_local(name):
            return Refusal("This server answers its own machine only; ask 127.0.0.1.", status=403, code="foreign_host")
    origin = headers.get("origin")
    # A proxy that adds TLS changes the scheme of the server's own pages.
    own = (f"http://{host}", f"https://{host}") if is_public else (f"http://{host}",)
    if origin is not None and origin not in own:
        return Refusal("Pages of other sites may not use this server.", status=403, code="foreign_origin")
    return None


def _no_key(challenge: str, how: str) -> Refusal:
    return Refusal(
        f"The API key is missing or wrong; {how}.",
        status=401,
        code="invalid_api_key",
        headers={"WWW-Authenticate": challenge},
    )


def bounded(receive: Any, limits: Limits) -> Any:
    """Receive a body within the limits of bytes and seconds; what is beyond them reads as a client that left."""
    size, whole, end = 0, False, time.monotonic() + limits.body_seconds

    async def message() -> Any:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            found = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
        except TimeoutError:
            return {"type": "http.disconnect"}
        size += len(found.get("body", b""))
        whole = found["type"] != "http.request" or not found.get("more_body", False)
        return found if size <= limits.body else {"type": "http.disconnect"}

    return message
