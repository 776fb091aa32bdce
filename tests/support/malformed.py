"""Bodies that nobody should send to the images server: chance values, and JSON, forms and pictures with damage."""

from __future__ import annotations

import base64
import json
import random
import socket
from typing import Any

from PIL import Image

from tagmoe.pictures import png_of

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


def json_body(dice: random.Random, prompt: str) -> bytes:
    fields = {name: dice.choice(VALUES) for name in dice.sample(NAMES, dice.randint(0, 8))}
    if dice.random() < 0.7:
        fields |= {"prompt": prompt}
    if dice.random() < 0.5:
        fields |= {"image": "data:;base64," + base64.b64encode(damaged(dice, PNG)).decode()}
    return damaged(dice, json.dumps(fields).encode()) if dice.random() < 0.4 else json.dumps(fields).encode()


def form_body(dice: random.Random, prompt: str) -> bytes:
    parts = [(name, str(dice.choice(VALUES)).encode("utf-8", "replace")) for name in dice.sample(NAMES, 4)]
    parts += [("prompt", prompt.encode()), (dice.choice(["image", "image[]", "mask"]), damaged(dice, PNG))]
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


def send(port: int, dice: random.Random, prompt: str = "x") -> int:
    """The status of the answer to a body; 0 where the connection ended. prompt: one that the server can draw."""
    is_form = dice.random() < 0.5
    body = form_body(dice, prompt) if is_form else json_body(dice, prompt)
    kind = b"multipart/form-data; boundary=B" if is_form else b"application/json"
    if dice.random() < 0.1:
        kind = dice.choice([b"multipart/form-data", b"multipart/form-data; boundary=", b"text/plain", b"\xff", b""])
    route = dice.choice([b"edits", b"edits", b"generations"])
    head = b"POST /v1/images/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %s\r\n" % (
        route,
        kind,
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        said = b""
        while part := plain.recv(65_536):
            said += part
    status = int(said[9:12]) if said else 0
    if 400 <= status < 500 and b"application/json" in said:
        assert set(json.loads(said.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
    return status
