"""What lies behind the web page, without Gradio: its history, its files, its examples, and how it draws."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.serving import PlainPainter, Running, picture_of, serving

from tagmoe.pictures import load_image, png_of
from tagmoe.serve.guard import bounded
from tagmoe.serve.limits import Limits
from tagmoe.serve.page import files
from tagmoe.serve.page.drawing import Finished, Progress, draw
from tagmoe.serve.page.history import MOST, Entry, entry_of, from_browser, to_browser
from tagmoe.serve.page.scenes import examples
from tagmoe.serve.refusal import Refusal
from tagmoe.world import TASKS

PNG = png_of(Image.new("RGB", (20, 10), "teal"))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(PlainPainter(), limits=Limits(wait=0, n=3, images=2, pixels=1000)) as running:
        yield running


def events(server: Running, fields: dict[str, Any], given: list[bytes], most: int = 1000) -> list[Any]:
    async def collect() -> list[Any]:
        found = []
        drawing = draw(server.app.state.server, fields, given)
        async for event in drawing:
            found.append(event)
            if len(found) == most:
                break
        await drawing.aclose()  # type: ignore[attr-defined]
        return found

    return asyncio.run(collect())


def test_a_wish_shows_each_step_previews_and_the_results(server: Running) -> None:
    found = events(server, {"prompt": "x", "seed": 4, "n": 2, "steps": 5}, [PNG])
    steps = [event for event in found if isinstance(event, Progress)]
    assert sorted({event.done for event in steps}) == [0, 1, 2, 3, 4, 5]
    assert sum(event.preview is not None for event in steps) == 4
    end = found[-1]
    assert isinstance(end, Finished)
    assert [result.seed for result in end.results] == [4, 5]
    assert end.results[1].image.getpixel((0, 0)) == picture_of("x", 5).getpixel((0, 0))
    assert server.engine.places == 0


@pytest.mark.parametrize(
    ("fields", "given", "said"),
    [
        ({"prompt": " "}, [], "prompt is missing"),
        ({"prompt": "forbidden"}, [PNG], "forbidden"),
        ({"prompt": "x", "n": 4}, [], "from 1 to 3"),
        ({"prompt": "x"}, [PNG] * 3, "at most 2"),
        ({"prompt": "x"}, [b"no picture"], "image cannot be used"),
        ({"prompt": "x"}, [png_of(Image.new("RGB", (100, 100)))], "at most 1,000 pixels"),
    ],
)
def test_the_limits_are_those_of_the_api(
    server: Running, fields: dict[str, Any], given: list[bytes], said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        events(server, fields, given)
    assert server.engine.places == 0


def test_who_stops_looking_cancels_the_work() -> None:
    painter = PlainPainter(seconds=0.02)
    with serving(painter, limits=Limits(wait=0)) as server:
        events(server, {"prompt": "x", "steps": 100}, [], most=3)
        assert server.engine.places == 0
        assert events(server, {"prompt": "next", "steps": 1}, [])
        assert painter.steps < 20


def test_a_history_comes_back_from_the_browser_and_nonsense_does_not() -> None:
    entry = entry_of({"instruction": "red", "seed": 3, "secret": 1}, None, Image.new("RGB", (8, 8), "red"))
    (found,) = from_browser(to_browser([entry]))
    assert (found.facts, found.before) == ({"instruction": "red", "seed": 3}, None)
    assert load_image(found.after).getpixel((0, 0)) == (255, 0, 0)
    assert found.caption == "red (seed 3)"
    good = to_browser([entry])[0]
    nonsense: list[Any] = [
        None,
        3,
        "x",
        [],
        [None],
        [{}],
        [good | {"after": "?"}],
        [good | {"instruction": []}],
        {"a": 1},
    ]
    assert [from_browser(one) for one in nonsense] == [[]] * len(nonsense)
    large = Entry({"instruction": "x"}, None, b"x" * 900_000)
    assert len(to_browser([large] * 5)) == 2
    assert len(from_browser(to_browser([entry] * 50))) == MOST


def test_only_what_the_page_needs_belongs_to_it() -> None:
    own = files.folder()
    assert own.stat().st_mode & 0o077 == 0
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/join", f"{files.SHOWN}{own}/a/picture.png"):
        assert files.belongs(path)
    for path in (
        "/gradio_api/proxy=https://a.hf.space/x",
        "/gradio_api/file=https://example.org/x",
        "/gradio_api/file=/etc/passwd",
        f"{files.SHOWN}{own}/../../etc/passwd",
        f"{files.SHOWN}{own}x/y",
        "/gradio_api/run/predict",
        "/gradio_api/call/drawn",
        "/gradio_api/run-history/connect",
        "/gradio_api/component_server",
        "/gradio_api/vibe-edit",
        "/monitoring",
        "/login",
        "/dev/reload",
    ):
        assert not files.belongs(path), path


@pytest.mark.parametrize("parts", [[b"x" * 60, b"x" * 60], [b"x" * 60, None]])
def test_a_body_of_the_page_is_bounded_in_bytes_and_seconds(parts: list[bytes | None]) -> None:
    """A part that is None never comes."""
    given = iter(parts)

    async def receive() -> dict[str, Any]:
        part = next(given)
        await asyncio.sleep(0 if part else 30)
        return {"type": "http.request", "body": part, "more_body": True}

    async def read() -> list[str]:
        message = bounded(receive, Limits(body=100, body_seconds=0.1))
        return [(await message())["type"] for _ in range(2)]

    assert asyncio.run(read()) == ["http.request", "http.disconnect"]


def test_there_is_an_example_of_every_task() -> None:
    found = examples()
    assert [example.task for example in found] == list(TASKS)
    assert all(example.instruction in example.caption for example in found)
    assert {len(example.pictures) for example in found} >= {0, 1}
    assert Path(files.folder()).name.startswith("tagmoe-page-")
