"""Small studies for tests: pictures of one colour and size each, planned, built and served on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from tagmoe.serve.server import listen, make_server
from tagmoe.study.build import Key, build
from tagmoe.study.manifest import ANSWERS, SIMULATED, Manifest
from tagmoe.study.plan import Design, plan, write_plan
from tagmoe.study.server import make_app
from tagmoe.study.store import Store

METHODS = ("zeta-9000", "alphaedit", "middle_b")
"""Names that a client must never see, neither in the order of the alphabet."""


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise on a colour, so that no two are alike and none compresses as another."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 200, 3)
    pixels = ground + random.integers(0, 1 + 50 * (seed % 3), (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def write_folders(folder: Path, cases: int, methods: Sequence[str] = METHODS, side: int = 24) -> Path:
    """Sources, outputs of each method, and the file of cases, which is returned. Each method has its own traits."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for case in range(cases):
        source = picture(case, (side, side))
        source.save(folder / f"source-{case}.png")
        words = f"change {case} <b>a bit</b>"
        lines.append({"id": f"c{case}", "instruction": words, "source": f"source-{case}.png"})
        lines[-1]["stratum"] = f"kind {case % 3}"
    for number, method in enumerate(methods):
        (folder / method).mkdir()
        for case in range(cases):
            output = picture(1000 * (number + 1) + case, (side * (number + 1), side * (number + 1)))
            if number == 1:
                output.save(folder / method / f"c{case}.jpg", quality=60, comment=b"made by alphaedit")
            else:
                output.save(folder / method / f"c{case}.png", compress_level=9 * (number % 2))
    file = folder / "cases.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@dataclass
class Study:
    """A study that was planned and built. folder: of the study."""

    folder: Path
    manifest: Manifest
    key: Key

    def store(self, *, simulated: bool = False, **options: Any) -> Store:
        name = SIMULATED if simulated else ANSWERS
        return Store(self.folder / name, self.manifest.digest, simulated, **options)


def planned(folder: Path, *, cases: int = 6, methods: Sequence[str] = METHODS, **design: Any) -> Manifest:
    """The frozen plan in FOLDER/study, of folders beside it."""
    file = write_folders(folder / "outputs", cases, methods, design.pop("side", 24))
    languages = design.pop("languages", ("en", "de"))
    study = folder / "study"
    study.mkdir()
    places = [str(folder / "outputs" / name) for name in methods]
    design = {"people": 4, "ratings": 4, **design}
    return write_plan(plan(file, places, study, Design(**design), languages=languages), study)


def made_study(folder: Path, **design: Any) -> Study:
    """A study that can be served."""
    manifest = planned(folder, **design)
    return Study(folder / "study", manifest, build(folder / "study", manifest, folder / "study"))


@dataclass
class Visitor:
    """A person who asks the server as the page does."""

    url: str
    token: str
    client: httpx2.Client

    def ask(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        if body is None:
            return self.client.get(f"{self.url}{path}", headers=sent)
        return self.client.post(f"{self.url}{path}", json=body, headers=sent)

    def state(self) -> Any:
        return self.ask("/api/state").json()

    def consent(self) -> Any:
        return self.ask("/api/consent", {"language": "en", "expertise": "", "screen": "large"}).json()

    def answer(self, page: int, position: int = 0, **other: Any) -> httpx2.Response:
        body = {
            "number": page,
            "attempt": f"attempt{page:04}",
            "choices": dict.fromkeys(("reference", "prompt", "overall"), position),
            "shown_ms": 1000,
            "zooms": 0,
            "changes": 0,
            "language": "en",
            **other,
        }
        return self.ask("/api/answer", body)


@dataclass
class Serving:
    """A server that runs in a thread."""

    url: str
    study: Study
    store: Store
    client: httpx2.Client

    def visitor(self, number: int = 0) -> Visitor:
        return Visitor(self.url, self.study.key.tokens[number], self.client)


@contextmanager
def serving_study(study: Study, *, is_public: bool = False, **options: Any) -> Iterator[Serving]:
    """The study on a free port of loopback."""
    store = study.store(**options)
    place = listen("127.0.0.1", 0)
    port = place.getsockname()[1]
    app = make_app(study.manifest, study.key, store, study.folder, is_public=is_public)
    server = make_server(app, drain=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    try:
        with httpx2.Client(timeout=30) as client:
            yield Serving(f"http://127.0.0.1:{port}", study, store, client)
    finally:
        server.should_exit = True
        thread.join(30)
        place.close()
        store.close()
