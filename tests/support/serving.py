"""The images server on loopback, in a thread, with a painter that is told what to do or a real pipeline."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from openai import OpenAI
from PIL import Image

from tagmoe.serve.api import make_app
from tagmoe.serve.asked import Asked
from tagmoe.serve.limits import Limits
from tagmoe.serve.painter import Facts, Scene
from tagmoe.serve.refusal import Refusal
from tagmoe.serve.server import make_server
from tagmoe.serve.work import Drawn, Work


@dataclass
class PlainPainter:
    """Draws one colour of the prompt and the seed. seconds: of a step. batches: the (prompt, seed) of each batch.

    gate: what it waits for before each batch.
    """

    name: str = "plain"
    loras: tuple[str, ...] = ()
    seconds: float = 0.0
    side: int = 16
    fails: str | None = None
    batches: list[list[tuple[str, int]]] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    steps: int = 0
    gate: threading.Event | None = None
    facts: Facts = field(default_factory=lambda: Facts(steps=4, has_mixtures=True, is_world=True))

    def begin(self) -> None:
        return None

    def check(self, asked: Asked, pictures: Sequence[Image.Image], mask: Any, prompt: str) -> Scene:
        if "forbidden" in prompt:
            raise Refusal("The prompt is forbidden.", "prompt")
        size = asked.size or (self.side, self.side)
        if max(size) > 256:
            raise Refusal("size is too large.", "size")
        steps = 4 if asked.steps is None else asked.steps
        cfg = 1.0 if asked.cfg is None else asked.cfg
        key = (size, steps, cfg, len(pictures))
        scene = Scene(
            prompt, tuple(pictures), mask, size, steps, cfg, asked.negative, asked.lora, asked.routing, key, (1, 1, 1)
        )
        self.scenes.append(scene)
        return scene

    def draw(self, works: Sequence[Work], on_step: Callable[[], None]) -> list[Drawn]:
        self.batches.append([(work.asked.prompt, work.seed) for work in works])
        if self.gate is not None:
            self.gate.wait(30)
        if self.fails and any(self.fails in work.asked.prompt for work in works):
            raise RuntimeError("the painter broke /secret/path")
        for step in range(works[0].asked.steps):
            time.sleep(self.seconds)
            self.steps += 1
            on_step()
            for work in works:
                if work.tell is not None:
                    work.tell(step + 1)
                if step + 1 in work.previews and work.show is not None:
                    work.show(picture_of(work.asked.prompt, step, work.asked.size))
        return [Drawn(picture_of(work.asked.prompt, work.seed, work.asked.size)) for work in works]


def picture_of(prompt: str, seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """What the plain painter draws."""
    return Image.new("RGB", size, tuple(hashlib.sha256(f"{prompt}|{seed}".encode()).digest()[:3]))


@dataclass
class Running:
    """A server that runs. url: ends in /v1."""

    port: int
    app: Any
    server: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def engine(self) -> Any:
        return self.app.state.server.engine

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=key, **{"max_retries": 0, "timeout": 60, **options})


@contextmanager
def serving(painter: Any, *, limits: Limits | None = None, drain: float = 5, **options: Any) -> Iterator[Running]:
    """A server with this painter on a free port."""
    app = make_app(painter, limits=limits, **options)
    place = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, drain=drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    try:
        yield Running(place.getsockname()[1], app, server)
    finally:
        server.should_exit = True
        thread.join(30)
        place.close()
