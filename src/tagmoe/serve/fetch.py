"""Fetch a picture from a URL, for servers that were told to (`--allow-url-fetch`).

The name is resolved once and the connection goes to that address, so that a second answer of the name server cannot
send it elsewhere. Every address of the name must be public. Redirects are not followed. No proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from urllib.parse import urlsplit

from tagmoe.sentences import reason_of
from tagmoe.serve.refusal import Refusal

PORTS = {"http": 80, "https": 443}
SECONDS = 10.0


def is_public(address: str) -> bool:
    """Whether an address is one of the internet: not private, loopback, link-local, shared, reserved or multicast."""
    found = ipaddress.ip_address(address.partition("%")[0])
    # An IPv6 address may carry an IPv4 one, to which a gateway would lead.
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    teredo = getattr(found, "teredo", None)
    if inner is not None or teredo is not None:
        return inner is not None and found.is_global and is_public(str(inner))
    nat64 = ipaddress.ip_network("64:ff9b::/96")
    if found.version == 6 and found in nat64:
        return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast


def fetch(url: str, most: int, name: str) -> bytes:
    """The bytes behind a URL, at most so many. name: the field that holds it. Raises Refusal."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Refusal(f"{name} holds a URL that cannot be read; give https://HOST/PATH.", name) from None
    if parts.scheme not in PORTS or not host or parts.username is not None or port not in (None, PORTS[parts.scheme]):
        raise Refusal(f"{name} holds a URL that is not fetched; give https://HOST/PATH on the usual port.", name)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(letter <= " " for letter in target):
            raise ValueError("it is not quoted")
        return _get(host, parts.scheme, target, most, name)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refusal(f"The URL in {name} cannot be fetched ({reason_of(error)}).", name) from None


def _get(host: str, scheme: str, target: str, most: int, name: str) -> bytes:
    port = PORTS[scheme]
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    if not found or not all(is_public(address) for address in found):
        raise Refusal(f"The URL in {name} leads to an address that is not public; it is not fetched.", name)
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    # The connection drops its socket when an answer begins that ends with it, so it is held here.
    plain = socket.create_connection((found[0], port), timeout=SECONDS)
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            plain.shutdown(socket.SHUT_RDWR)

    # A timeout of the socket bounds each read. A site that sends a byte now and then would hold the thread for hours.
    timer = threading.Timer(SECONDS, cut)
    timer.daemon = True
    timer.start()
    try:
        if scheme == "https":
            plain = ssl.create_default_context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            plain.do_handshake()
        connection.sock = plain
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "tagmoe"})
        return _read(connection.getresponse(), most, name, late)
    except (OSError, http.client.HTTPException, ValueError):
        if late.is_set():
            raise _too_slow(name) from None
        raise
    finally:
        timer.cancel()
        connection.close()
        plain.close()


def _read(answer: http.client.HTTPResponse, most: int, name: str, late: threading.Event) -> bytes:
    if answer.status != 200:
        raise Refusal(f"The URL in {name} answered with status {answer.status}; redirects are not followed.", name)
    parts, size = [], 0
    while part := answer.read1(65_536):
        parts.append(part)
        size += len(part)
        if size > most:
            raise Refusal(f"The URL in {name} holds more than {most:,} bytes.", name, code="too_large")
    if late.is_set():
        raise _too_slow(name)
    return b"".join(parts)


def _too_slow(name: str) -> Refusal:
    return Refusal(f"The URL in {name} did not arrive within {SECONDS:g} s.", name)
