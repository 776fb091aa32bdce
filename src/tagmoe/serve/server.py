"""Run the application by uvicorn: where it listens, the keys, and the end by a signal."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from tagmoe.errors import UsageError
from tagmoe.sentences import counted, reason_of
from tagmoe.serve.guard import is_local

SHORTEST_KEY = 16
SWITCH_SECONDS = 0.0005
"""How long the thread that draws keeps Python from the one that answers. Python's 5 ms pass several times a request."""


def read_keys(path: Path) -> list[str]:
    """The API keys in a file, one a line. Raises UsageError for none, and for one that is short or has blanks."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The keys in {str(path)!r} cannot be read: {reason_of(error)}.") from None
    keys = [line for line in lines if line]
    if not keys:
        raise UsageError(f"{str(path)!r} holds no API key; write one a line.")
    for number, key in enumerate(keys, 1):
        # The error does not repeat the key.
        if len(key) < SHORTEST_KEY or not key.isascii() or " " in key:
            raise UsageError(
                f"Key {number} in {str(path)!r} is no key; give {counted(SHORTEST_KEY, 'character')} of ASCII or more."
            )
    return keys


def check_place(host: str, keys: Sequence[str]) -> None:
    """Raise UsageError where others could reach a server without keys."""
    if not keys and not is_local(host):
        raise UsageError(f"--host is {host!r}, where others reach it; give --api-keys FILE, or leave --host out.")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. port 0: any that is free. Raises UsageError for a place that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The server cannot listen at {host}:{port} ({reason_of(error)}); choose another.") from None


def address_of(place: socket.socket) -> str:
    """Where a socket listens, as http://HOST:PORT."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: Any, *, drain: float) -> uvicorn.Server:
    """uvicorn around an application. drain: seconds that requests get to finish after the first SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        # The bounds of headers are those of h11. uvicorn would take httptools where that is installed, as by Ray Serve.
        http="h11",
        server_header=False,
        # Headers of a proxy would let a client choose its address and scheme.
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain)),
        timeout_keep_alive=5,
        ws="none",
        h11_max_incomplete_event_size=65_536,
    )
    return uvicorn.Server(config)


def serve(app: Any, place: socket.socket, *, drain: float, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, and finish what runs; started: called when requests are answered.

    Raises KeyboardInterrupt after Ctrl-C.
    """

    class Running(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    server = Running(make_server(app, drain=drain).config)
    # uvicorn raises the signal again when it has finished. SIGTERM was obeyed by then.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    switching = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        server.run(sockets=[place])
    finally:
        sys.setswitchinterval(switching)
        signal.signal(signal.SIGTERM, before)
        place.close()
