"""Bodies that nobody should send: no answer is a fault of the server, and no file handle stays open."""

from __future__ import annotations

import base64
import json
import os
import random
import socket
from typing import Any

import pytest
from PIL import Image
from support.serving import PlainPainter, Running, serving

from tagmoe.pictures import png_of
from tagmoe.serve.limits import Limits

PNG = png_of(Image.new("RGB", (8, 8), "teal"))
VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, 10**400, "", " ", "x", "\ud800", "\x00", "a" * 10_000, [], [[]], {}, {"a": {"b": 1}},
    "nan", "1e9", "64x64", "0x0", "data:image/png;base64,", "data:,", "http://[", f"data:;base64,{'A' * 99}", "\u202e",
]  # fmt: skip
NAMES = [
    "prompt",
    "n",
    "size",
    "seed",
    "steps",
    "cfg",
    "negative_prompt",
    "lora",
    "routing",
    "metadata",
    "stream",
    "partial_images",
    "background",
    "output_format",
    "output_compression",
    "response_format",
    "image",
    "images",
    "mask",
    "model",
    "quality",
    "user",
    "svg",
    "svg[model]",
    "image[]",
    "foo",
]


def json_body(dice: random.Random) -> bytes:
    fields = {name: dice.choice(VALUES) for name in dice.sample(NAMES, dice.randint(0, 8))}
    if dice.random() < 0.7:
        fields |= {"prompt": "x"}
    if dice.random() < 0.5:
        fields |= {"image": "data:;base64," + base64.b64encode(damaged(dice, PNG)).decode()}
    return damaged(dice, json.dumps(fields).encode()) if dice.random() < 0.4 else json.dumps(fields).encode()


def form_body(dice: random.Random) -> bytes:
    parts = [(name, str(dice.choice(VALUES)).encode("utf-8", "replace")) for name in dice.sample(NAMES, 4)]
    parts += [("prompt", b"x"), (dice.choice(["image", "image[]", "mask"]), damaged(dice, PNG))]
    lines = b""
    for name, data in parts:
        file = b'; filename="../../x"' if dice.random() < 0.5 else b""
        lines += b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), file, data)
    body = lines + b"--B--\r\n"
    return damaged(dice, body) if dice.random() < 0.4 else body


def damaged(dice: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut or doubled."""
    kind, place = dice.randrange(4), dice.randrange(len(data) or 1)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + dice.randbytes(4) + data[place + 4 :]
    return data[:place] + data[place // 2 :] if kind == 2 else data


def send(server: Running, dice: random.Random) -> int:
    """The status of the answer to a body; 0 where the connection ended."""
    is_form = dice.random() < 0.5
    body = form_body(dice) if is_form else json_body(dice)
    kind = b"multipart/form-data; boundary=B" if is_form else b"application/json"
    if dice.random() < 0.1:
        kind = dice.choice([b"multipart/form-data", b"multipart/form-data; boundary=", b"text/plain", b"\xff", b""])
    route = dice.choice([b"edits", b"edits", b"generations"])
    head = b"POST /v1/images/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %s\r\n" % (
        route,
        kind,
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        said = b""
        while part := plain.recv(65_536):
            said += part
    status = int(said[9:12]) if said else 0
    if 400 <= status < 500 and b"application/json" in said:
        assert set(json.loads(said.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
    return status


@pytest.mark.slow_but_first
@pytest.mark.parametrize("bodies", [50, 1000])
def test_no_body_is_a_fault_of_the_server_and_no_handle_stays(bodies: int) -> None:
    dice = random.Random(bodies)
    with serving(PlainPainter(), limits=Limits(steps=4, body=50_000, prompt=5000)) as server:
        send(server, dice)
        before = len(os.listdir("/proc/self/fd"))
        statuses = [send(server, dice) for _ in range(bodies)]
        assert {status for status in statuses if status == 0 or status >= 500} == set()
        assert 400 in statuses
        assert 200 in statuses or bodies < 1000, "some of many bodies are whole by chance"
        assert server.engine.places == 0
        assert len(os.listdir("/proc/self/fd")) <= before + 2
