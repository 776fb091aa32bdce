"""Each promise of docs/security.md."""

from __future__ import annotations

import builtins
import io
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
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
from tagmoe.serve.guard import Keys, is_local
from tagmoe.serve.limits import Limits
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


def test_a_lora_is_named_and_never_a_path() -> None:
    from tagmoe.cli.serve import named_loras

    with pytest.raises(UsageError, match="NAME=FILE"):
        named_loras(["../x=y"])
