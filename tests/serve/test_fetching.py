"""Pictures by URL: never unless told so; then from one public address, without redirects, within bounds."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.serving import PlainPainter, Running, serving

from tagmoe.pictures import png_of
from tagmoe.serve import fetch as fetching
from tagmoe.serve.fetch import fetch, is_public
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import Refusal

PRIVATE_HOSTS = ("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "169.254.169.254", "10.1.1.1")
PNG = png_of(Image.new("RGB", (20, 10), "teal"))


def edit_url(server: Running, url: str) -> tuple[int, str]:
    """(status, text) of the answer. The client connects to an address, so it resolves no name itself."""
    body = b'{"prompt": "x", "image": "%s"}' % url.encode()
    with socket.socket() as plain:
        plain.settimeout(20)
        plain.connect(("127.0.0.1", server.port))
        plain.sendall(
            b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        said = b""
        while part := plain.recv(4096):
            said += part
    return int(said[9:12]), said.partition(b"\r\n\r\n")[2].decode()


def test_no_url_is_fetched_unless_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    with serving(PlainPainter()) as server:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: asked.append(given) or [])
        status, said = edit_url(server, "http://example.org/x.png")
    assert (status, asked) == (400, [])
    assert '"code":"no_fetching"' in said


def test_addresses_that_are_not_public_are_known() -> None:
    private = (
        "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 "
        "::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:7f00:1::"
    )
    assert [address for address in private.split() if is_public(address)] == []
    assert all(map(is_public, ("93.184.216.34", "2606:2800:220:1::1")))


def test_a_server_that_fetches_reaches_no_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not one that is written as a number, or that a name shares with a public one."""
    connected: list[object] = []
    with serving(PlainPainter(), fetches=True) as server:
        monkeypatch.setattr(fetching.socket, "create_connection", lambda *given, **more: connected.append(given))
        for host in PRIVATE_HOSTS:
            for scheme in ("http", "https"):
                status, said = edit_url(server, f"{scheme}://{host}/x.png")
                assert status == 400
                assert "not public" in said
        mixed = [(0, 0, 0, "", (address, 80)) for address in ("93.184.216.34", "192.168.0.1")]
        monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *given, **more: mixed)
        with pytest.raises(Refusal, match="not public"):
            fetch("http://mixed.example/x.png", 1000, "image")
    assert connected == []


class Site(http.server.BaseHTTPRequestHandler):
    """A picture, a redirect, a page without an end, and one that comes byte by byte."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "http://169.254.169.254/")
        self.end_headers()
        try:
            if self.path.startswith("/slow"):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            else:
                self.wfile.write(PNG if self.path == "/x.png" else b"x" * 50_000)
        except OSError:
            return

    def log_message(self, *given: object) -> None:
        return None


@contextmanager
def site(monkeypatch: pytest.MonkeyPatch, certificate: Path | None = None) -> Iterator[list[str]]:
    """A site on loopback that counts as public; the names that were resolved. certificate: of a site of https."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
    running.daemon_threads = True
    running.handle_error = lambda *given: None  # type: ignore[method-assign]
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    resolved: list[str] = []
    port = running.server_address[1]

    def resolve(host: str, _: int, **options: object) -> list[Any]:
        resolved.append(host)
        return [(0, 0, 0, "", ("127.0.0.1" if len(resolved) == 1 else "10.0.0.1", 80))]

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        plain = socket.socket()
        plain.settimeout(timeout)
        plain.connect((place[0], port))
        return plain

    monkeypatch.setattr(fetching.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(fetching.socket, "create_connection", connect)
    try:
        yield resolved
    finally:
        running.shutdown()
        running.server_close()


def test_a_name_is_resolved_once_and_its_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with site(monkeypatch) as resolved:
        assert fetch("http://rebinding.example/x.png", 10_000, "image") == PNG
        assert resolved == ["rebinding.example"]
        with pytest.raises(Refusal, match="not public"):
            fetch("http://rebinding.example/x.png", 10_000, "image")


def test_a_server_that_fetches_edits_what_it_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = PlainPainter()
    with serving(painter, fetches=True) as server, site(monkeypatch):
        assert edit_url(server, "http://some.example/x.png")[0] == 200
    assert painter.scenes[0].pictures[0].size == (20, 10)


@pytest.mark.parametrize(
    ("path", "said"), [("/away", "redirects are not followed"), ("/long", "more than 10,000 bytes")]
)
def test_fetching_follows_no_redirect_and_is_bounded(monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    with site(monkeypatch), pytest.raises(Refusal, match=said):
        fetch(f"http://some.example{path}", 10_000, "image")


def slow_headers(port: list[int], stop: threading.Event) -> None:
    """A site that sends a header byte by byte."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port.append(listening.getsockname()[1])
        plain, _ = listening.accept()
        with plain:
            try:
                plain.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not stop.wait(0.05):
                    plain.sendall(b"x")
            except OSError:
                return


@pytest.mark.parametrize("part", ["body", "headers"])
def test_a_site_that_sends_slowly_ends_at_the_time_limit(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    started = time.monotonic()
    with site(monkeypatch):
        stop, port = threading.Event(), list[int]()
        if part == "headers":
            thread = threading.Thread(target=slow_headers, args=(port, stop), daemon=True)
            thread.start()
            while not port:
                time.sleep(0.01)
            socket_class = socket.socket

            def connect(place: object, timeout: float) -> socket.socket:
                plain = socket_class()
                plain.settimeout(timeout)
                plain.connect(("127.0.0.1", port[0]))
                return plain

            monkeypatch.setattr(fetching.socket, "create_connection", connect)
        with pytest.raises(Refusal, match=r"did not arrive within 0\.3 s"):
            fetch("http://some.example/slow", 10_000, "image")
        stop.set()
    assert time.monotonic() - started < 3


def test_https_is_fetched_of_the_name_that_the_certificate_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    certificate = tmp_path / "both.pem"
    made = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=some.example", "-addext", "subjectAltName=DNS:some.example"]
    subprocess.run([*made, "-keyout", certificate, "-out", tmp_path / "own.pem"], check=True, capture_output=True)
    own = (tmp_path / "own.pem").read_text()
    certificate.write_text(certificate.read_text() + own)
    with site(monkeypatch, certificate), pytest.raises(Refusal, match="self-signed certificate"):
        fetch("https://some.example/x.png", 10_000, "image")
    make = ssl.create_default_context
    monkeypatch.setattr(fetching.ssl, "create_default_context", lambda: make(cadata=own))
    with site(monkeypatch, certificate):
        assert fetch("https://some.example/x.png", 10_000, "image") == PNG
    with site(monkeypatch, certificate), pytest.raises(Refusal, match="redirects are not followed"):
        fetch("https://some.example/away", 10_000, "image")
    with site(monkeypatch, certificate), pytest.raises(Refusal, match="Hostname mismatch"):
        fetch("https://other.example/x.png", 10_000, "image")


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "http://a:22/b", "http://u:p@a/b", "http:///b", "http://[::1", "http://a/b c", "https://"]
)
def test_other_urls_are_refused_before_a_name_is_resolved(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *given, **more: pytest.fail("it was resolved"))
    with pytest.raises(Refusal):
        fetch(url, 1000, "image")


def test_the_limit_of_bytes_is_that_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(PlainPainter(), fetches=True, limits=Limits(body=10_000)) as server, site(monkeypatch):
        status, said = edit_url(server, "http://some.example/long")
    assert (status, '"code":"too_large"' in said) == (400, True)
