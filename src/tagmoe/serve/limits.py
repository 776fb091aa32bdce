"""What one request, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds. Each is checked before the work that it bounds.

    body: bytes of a request. pixels: of one picture, by its header, before it is decoded. images: pictures of a
    request, OpenAI's 16. n: results of a request, OpenAI's 10. prompt: characters, OpenAI's 32,000. steps: denoising
    steps. seconds: of a request, its wait in the queue included. body_seconds: for its body to arrive. queue: pictures
    that wait. batch: pictures that are drawn together. wait: seconds that the first of a batch waits for others.
    """

    body: int = 64 << 20
    pixels: int = 16_777_216
    images: int = 16
    n: int = 10
    prompt: int = 32_000
    steps: int = 100
    seconds: float = 600.0
    body_seconds: float = 30.0
    queue: int = 32
    batch: int = 8
    wait: float = 0.005
