"""The servers that can be asked: address, load and health of each, and the request fields it does not support."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from tagmoe.errors import UsageError

PATIENCE = 3
"""Failures in a row after which a server is left alone, although it can be reached."""
FIRST_REST = 1.0
LONGEST_REST = 60.0
"""Seconds for which a server is left alone: at first, and at most. Each further failure doubles them."""


class Endpoint:
    """One address. url: without a slash at its end. in_flight: requests that it has now.

    unsupported_fields: fields of a request that the server refused; later requests leave them out. accepted: the sets
    of fields of the requests that it answered. tried: refusals after which all optional fields were tried in vain.
    learning: held by the question that tries them. saw_pictures: whether it ever answered a question with pictures.
    """

    def __init__(self, address: str) -> None:
        self.url = base_url(address)
        self.in_flight = 0
        self.unsupported_fields: set[str] = set()
        self.accepted: set[frozenset[str]] = set()
        self.tried: set[str] = set()
        self.learning = asyncio.Lock()
        self.saw_pictures = False
        self._failed_at = 0.0
        self.worked()

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    @property
    def rests(self) -> bool:
        """Whether it is left alone now."""
        return time.monotonic() < self._rests_until

    def accepts(self, fields: frozenset[str]) -> bool:
        """Whether it has answered a request that had all of these fields."""
        return any(fields <= accepted for accepted in self.accepted)

    def worked(self) -> None:
        """Note that the server answered, whatever the answer was."""
        self._failures = 0
        self._rest = 0.0
        self._rests_until = 0.0

    def failed(self, started: float, *, gone: bool) -> None:
        """Note a request of `started` (monotonic seconds) without an answer. gone: no connection or no reply at all."""
        if started < self._failed_at:
            return  # an outage fails all requests in flight but counts once
        self._failed_at = time.monotonic()
        self._failures += 1
        if gone or self._failures >= PATIENCE:
            self._rest = min(LONGEST_REST, max(FIRST_REST, 2 * self._rest))
            self._rests_until = self._failed_at + self._rest * random.uniform(0.75, 1.0)

    def try_alone(self) -> None:
        """After a failure let this request alone test the server: others leave it alone until the request is back."""
        if self._rest:
            self._rests_until = time.monotonic() + self._rest


def choose(endpoints: Sequence[Endpoint]) -> Endpoint:
    """The least loaded endpoint that does not rest; when all rest, the one whose rest ends first."""
    awake = [endpoint for endpoint in endpoints if not endpoint.rests]
    if not awake:
        return min(endpoints, key=lambda endpoint: endpoint._rests_until)
    best = min(awake, key=lambda endpoint: (endpoint.in_flight, random.random()))
    best.try_alone()
    return best


def base_url(address: str) -> str:
    """An address with its path ("/v1" where it has none). Raises UsageError unless it is a plain http(s) address."""
    try:
        parts = urlsplit(address.strip())
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise UsageError("An endpoint is no valid address; give one as http://127.0.0.1:8000/v1.") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        # the error does not repeat the address, which may hold a key
        raise UsageError(
            f"The endpoint at {parts.hostname!r} has more than a path in its address; give http://HOST:PORT/v1 and the "
            "key in the environment variable TAGMOE_VLM_KEY."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise UsageError(f"The endpoint {address!r} is no address; give one as http://127.0.0.1:8000/v1.")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"
