"""Each promise of docs/security.md."""

from __future__ import annotations

import builtins
import http.server
import io
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image
from support.serving import PlainPainter, Running, serving

from tagmoe import pictures
from tagmoe.cli import run
from tagmoe.errors import UsageError
from tagmoe.pictures import png_of
from tagmoe.serve import fetch as fetching
from tagmoe.serve.fetch import fetch, is_public
from tagmoe.serve.guard import Keys, is_local
from tagmoe.serve.limits import Limits
from tagmoe.serve.refusal import Refusal
from tagmoe.serve.server import check_place, read_keys

PNG = png_of(Image.new("RGB", (20, 10), "teal"))
KEY = "k" * 32


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(PlainPainter(), limits=Limits(body=100_000, pixels=1000, images=3, body_seconds=0.5)) as running:
        yield running


def edit(server: Running, **options: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/images/edits", timeout=30, **options)


def test_others_reach_only_a_server_with_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "give --api-keys FILE" in capsys.readouterr().err
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_place(host, [])
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        check_place(host, [KEY])
        with pytest.raises(UsageError):
            check_place(host, [])
    file = tmp_path / "keys"
    for text in ("", "short", "with blank " * 4):
        file.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_keys(file)
        assert text.strip() == "" or text not in str(caught.value)
    file.write_text(f"{KEY}\n\n{KEY[::-1]}x\n")
    assert len(read_keys(file)) == 2


def test_every_route_but_health_needs_a_key() -> None:
    with serving(PlainPainter(), keys=[KEY, "q" * 20]) as server:
        assert server.client(KEY).images.generate(prompt="x", model="m").data
        assert server.client("q" * 20).models.list().data
        for wrong in ("k" * 31, KEY + "k", "none", ""):
            with pytest.raises(openai.AuthenticationError):
                server.client(wrong or "-").models.list()
        root = server.url.removesuffix("/v1")
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/other"):
            answer = httpx2.get(root + path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx2.get(f"{root}/health").status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert Keys([KEY, "other" * 5]).accept(f"Bearer {KEY}")
    assert len(compared) == 2, "all keys are compared, also after one that fits"
    assert {len(part) for pair in compared for part in pair} == {32}, "digests, of one length whatever the key"
    assert not Keys([KEY]).accept(None)
    assert not Keys([KEY]).accept(f"Basic {KEY}")


def test_pages_of_a_browser_cannot_use_a_server_without_keys(server: Running) -> None:
    for headers, code in (({"Host": "evil.example"}, "foreign_host"), ({"Origin": "http://evil"}, "foreign_origin")):
        answer = edit(server, json={"prompt": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    assert is_local("[::1]")
    assert not is_local("localhost.evil.example")


def test_bytes_are_bounded_before_they_are_read_into_memory(server: Running) -> None:
    assert edit(server, content=b"x" * 100_001, headers={"Content-Type": "application/json"}).status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    # without a length; the server may close before the client has sent all
    with suppress(httpx2.TransportError):
        assert edit(server, content=parts(), headers={"Content-Type": "application/json"}).status_code == 413
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        slow.settimeout(10)
        assert b" 408 " in slow.recv(1000)


def test_pixels_are_bounded_before_they_are_decoded(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytearray(png_of(Image.new("L", (1, 1))))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    decoded: list[Any] = []
    real = pictures.upright_rgb
    monkeypatch.setattr(pictures, "upright_rgb", lambda *given, **more: decoded.append(given) or real(*given, **more))
    for data in (bytes(bomb), png_of(Image.new("RGB", (100, 100)))):
        for name in ("image", "mask"):
            files = [("image", ("x", PNG))] * (name == "mask") + [(name, ("x", data))]
            answer = edit(server, data={"prompt": "x"}, files=files)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert all(given[0].size == (20, 10) for given in decoded)


def test_images_are_bounded(server: Running) -> None:
    answer = edit(server, data={"prompt": "x"}, files=[("image[]", ("x", PNG))] * 4)
    assert answer.json()["error"]["message"] == "There are 4 images; at most 3 are allowed."
    assert edit(server, data={"prompt": "x"}, files=[("image[]", ("x", PNG))] * 40).status_code == 400
    assert edit(server, json={"prompt": "x", "image": ["data:,"] * 4}).status_code == 400


def test_no_file_is_opened_for_a_request(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither names nor fields of a client, nor a large file of a form, reach the file system."""
    opened: list[object] = []
    real, real_open = builtins.open, os.open
    monkeypatch.setattr(builtins, "open", lambda *given, **more: opened.append(given) or real(*given, **more))
    monkeypatch.setattr(io, "open", lambda *given, **more: opened.append(given) or real(*given, **more))
    monkeypatch.setattr(os, "open", lambda *given, **more: opened.append(given) or real_open(*given, **more))
    for name in ("../../etc/passwd", "/etc/passwd", "con.png", "x" * 300, "a\x00b"):
        answer = edit(server, data={"prompt": name or "x", "model": name}, files={"image": (name, PNG)})
        assert answer.status_code in (200, 400)
    big = edit(server, data={"prompt": "x"}, files={"image": ("x", PNG), "other": ("y", b"y" * 80_000)})
    assert big.status_code == 200, "a large file in a field that nobody reads"
    for path in ("/etc/passwd", "file:///etc/passwd"):
        answer = edit(server, json={"prompt": "x", "image": path})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert opened == []


def test_no_url_is_fetched_unless_told_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: asked.append(given) or [])
    code = edit_url(server, "http://example.org/x.png")
    assert (code, asked) == ("no_fetching", [])


def edit_url(server: Running, url: str) -> str:
    """The code of the refusal. The client connects to an address, so it resolves no name itself."""
    body = b'{"prompt": "x", "image": "%s"}' % url.encode()
    with socket.socket() as plain:
        plain.connect(("127.0.0.1", server.port))
        plain.sendall(
            b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        said = b""
        while part := plain.recv(4096):
            said += part
    return str(said.partition(b'"code":"')[2].partition(b'"')[0].decode())


def test_addresses_that_are_not_public_are_known() -> None:
    private = (
        "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 "
        "::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:7f00:1::"
    )
    assert [address for address in private.split() if is_public(address)] == []
    assert all(map(is_public, ("93.184.216.34", "2606:2800:220:1::1")))


class Site(http.server.BaseHTTPRequestHandler):
    """A picture, a redirect, and a page without an end."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "http://169.254.169.254/")
        self.end_headers()
        try:
            self.wfile.write(PNG if self.path == "/x.png" else b"x" * 50_000)
        except OSError:
            return

    def log_message(self, *given: object) -> None:
        return None


@contextmanager
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A site on loopback that counts as public; the names that were resolved."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=running.serve_forever, daemon=True).start()
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


@pytest.mark.parametrize(
    ("path", "said"), [("/away", "redirects are not followed"), ("/long", "more than 10,000 bytes")]
)
def test_fetching_follows_no_redirect_and_is_bounded(monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    with site(monkeypatch), pytest.raises(Refusal, match=said):
        fetch(f"http://some.example{path}", 10_000, "image")


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "http://a:22/b", "http://u:p@a/b", "http:///b", "http://[::1", "http://a/b c", "https://"]
)
def test_other_urls_are_refused_before_a_name_is_resolved(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *given, **more: pytest.fail("it was resolved"))
    with pytest.raises(Refusal):
        fetch(url, 1000, "image")


def test_a_lora_is_named_and_never_a_path() -> None:
    from tagmoe.cli.serve import named_loras

    with pytest.raises(UsageError, match="NAME=FILE"):
        named_loras(["../x=y"])
