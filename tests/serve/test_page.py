"""The web page in a real Chromium: pictures, words, previews, slider, history, errors, two visitors, phone, dark."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from support.browser import PHONE, Browser, browser
from support.serving import PlainPainter, Running, serving
from support.tiny_model import TEXTS, build_pipeline

from tagmoe.pictures import load_image, png_of
from tagmoe.serve.limits import Limits
from tagmoe.serve.painter import PipelinePainter

pytestmark = pytest.mark.slow
pytest.importorskip("gradio")

PNG = png_of(Image.effect_noise((64, 64), 60).convert("RGB"))
KEY = "k" * 32


class Left:
    """Connections that left the machine, and names that were looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: list[object] = []
        real, resolve = socket.socket.connect, socket.getaddrinfo

        def connect(plain: socket.socket, place: Any) -> Any:
            if plain.family != socket.AF_UNIX and place[0] not in ("127.0.0.1", "::1"):
                self.places.append(place)
                raise OSError("no request leaves the machine")
            return real(plain, place)

        def getaddrinfo(host: Any, *given: Any, **more: Any) -> Any:
            if host not in ("127.0.0.1", "localhost", None, "", "::1"):
                self.places.append(host)
                raise OSError("no request leaves the machine")
            return resolve(host, *given, **more)

        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def painter() -> PlainPainter:
    return PlainPainter(side=64)


@pytest.fixture(scope="module")
def server(painter: PlainPainter) -> Iterator[Running]:
    with serving(painter, limits=Limits(wait=0, n=4), page=True) as running:
        yield running


@pytest.fixture
def visit(chromium: Browser, server: Running) -> Iterator[Any]:
    with chromium.visits() as visitor:

        def visit(of: Running = server, **options: Any) -> Any:
            page = visitor(**options)
            page.goto(of.url.removesuffix("v1"))
            page.get_by_label("Instruction").wait_for()
            return page

        yield visit


def shot(page: Any, name: str) -> None:
    """A screenshot, where TAGMOE_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("TAGMOE_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def drop(page: Any, *pictures: bytes) -> None:
    """Give pictures to the page."""
    given = [{"name": f"../{n}.png", "mimeType": "image/png", "buffer": data} for n, data in enumerate(pictures)]
    page.locator("#pictures input[type=file]").first.set_input_files(given)
    page.locator("#pictures img").nth(len(pictures) - 1).wait_for()


def draw(page: Any, words: str) -> None:
    page.get_by_label("Instruction").fill(words)
    page.get_by_role("button", name="Draw", exact=True).click()


def many_steps(page: Any) -> None:
    """Ask for 40 steps."""
    page.get_by_text("Advanced").click()
    page.get_by_label("number input for Steps").fill("40")


def until(page: Any, what: Callable[[], bool]) -> None:
    """Wait until something is so, and let the browser go on meanwhile."""
    for _ in range(100):
        if what():
            break
        page.wait_for_timeout(100)
    assert what()


def pixels(page: Any, place: str) -> np.ndarray:
    """The pixels of the last picture in a place, as the browser got them."""
    address = page.locator(f"{place} img").last.get_attribute("src")
    assert address.endswith(".png"), "nothing is lossy"
    return np.asarray(load_image(page.request.get(address).body()))


def test_a_picture_is_dropped_edited_and_compared(visit: Any, painter: PlainPainter) -> None:
    page = visit()
    shot(page, "empty")
    drop(page, PNG)
    page.get_by_text("Advanced").click()
    page.get_by_label("A new seed each time").uncheck()
    page.get_by_label("Seed", exact=True).fill("7")
    shot(page, "wishes")
    painter.seconds = 0.2
    draw(page, "make it red")
    page.get_by_role("progressbar", name="Drawing").wait_for()
    page.locator("#slider img").last.wait_for()
    shot(page, "preview")
    page.get_by_text("1 picture in").wait_for()
    painter.seconds = 0
    shot(page, "edited")
    from support.serving import picture_of

    assert (pixels(page, "#slider") == np.asarray(picture_of("make it red", 7, (64, 64)))).all()
    assert page.locator("#facts").inner_text().replace("\n", " ").startswith("seed 7")
    scene = painter.scenes[-1]
    assert scene.pictures[0].size == (64, 64)
    assert scene.routing


def test_the_packaged_model_edits_a_picture_on_the_page(visit: Any) -> None:
    """Its pixels are those that the API gives for the same seed."""
    from tagmoe.pipeline.packaged import load_packaged
    from tagmoe.world import sample

    case = sample(0, 0, split="test", task="recolour")
    picture = png_of(Image.fromarray(case.sources[0]))
    with serving(PipelinePainter(load_packaged(), "tagworld", threads=1), page=True) as running:
        page = visit(running)
        drop(page, picture)
        page.get_by_text("Advanced").click()
        page.get_by_label("A new seed each time").uncheck()
        page.get_by_label("Seed", exact=True).fill("7")
        draw(page, case.instruction)
        page.get_by_text("1 picture in").wait_for(timeout=120_000)
        shot(page, "packaged")
        with running.client() as client:
            answer = client.images.edit(
                model="m", image=("x.png", picture), prompt=case.instruction, extra_body={"seed": 7}
            )
        assert answer.data is not None
        found = np.asarray(load_image(base64.b64decode(answer.data[0].b64_json or "")))
        assert (pixels(page, "#slider") == found).all()
        assert (found != case.sources[0]).any()


def test_the_slider_is_dragged_and_shows_more_of_one_picture_and_less_of_the_other(visit: Any) -> None:
    """The colours on the screen: left of the handle the picture before, right of it the one after."""
    page = visit()
    drop(page, png_of(Image.new("RGB", (64, 64), "white")))
    draw(page, "drag me")
    page.get_by_text("1 picture in").wait_for()
    frame = page.locator("#slider img").last.bounding_box()
    handle = page.locator("#slider .outer").first

    def white() -> float:
        """The share of the columns that show the picture before, in the middle row of pictures."""
        seen = np.asarray(load_image(page.screenshot(clip=frame)).convert("RGB")).astype(int)
        row = seen[len(seen) // 4]
        return float((np.abs(row - 255).max(axis=1) < 3).mean())

    shares = []
    for part in (0.5, 0.2, 0.8):
        box = handle.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, frame["y"] + frame["height"] / 2)
        page.mouse.down()
        page.mouse.move(frame["x"] + part * frame["width"], frame["y"] + frame["height"] / 2, steps=8)
        page.mouse.up()
        until(page, lambda part=part: abs(white() - part) < 0.06)
        shares.append(white())
        shot(page, f"slider-{part}")
    assert shares[1] < shares[0] < shares[2]


def test_text_alone_draws_a_picture_and_enter_is_enough(visit: Any) -> None:
    page = visit()
    page.get_by_label("Instruction").fill("a blue star")
    page.keyboard.press("Enter")
    page.locator("#picture img").wait_for()
    page.get_by_text("1 picture in").wait_for()
    assert page.locator("#picture img").is_visible()
    shot(page, "generated")


def test_an_error_is_said_in_one_sentence_and_the_page_goes_on(visit: Any) -> None:
    page = visit()
    draw(page, "forbidden")
    page.get_by_role("alert").get_by_text("The prompt is forbidden.").wait_for()
    shot(page, "error")
    draw(page, "allowed")
    page.get_by_text("1 picture in").wait_for()
    assert page.get_by_role("alert").count() == 0
    page.get_by_text("Advanced").click()
    page.get_by_label("Size").fill("big")
    draw(page, "x")
    page.get_by_role("alert").get_by_text("size is").wait_for()


def test_escape_stops_at_the_next_step(visit: Any, painter: PlainPainter, server: Running) -> None:
    page = visit()
    painter.seconds = 0.5
    try:
        many_steps(page)
        draw(page, "a long one")
        page.get_by_text(re.compile(r"Step \d+ of 40")).wait_for()
        shot(page, "running")
        page.keyboard.press("Escape")
        page.get_by_text("Stopped.").wait_for()
        assert page.get_by_role("button", name="Draw", exact=True).is_enabled()
        until(page, lambda: server.engine.places == 0)
    finally:
        painter.seconds = 0
    draw(page, "another")
    page.locator("#history").get_by_text("another").wait_for()
    assert page.locator("#history").get_by_text("a long one").count() == 0


def test_a_visitor_who_leaves_ends_his_work(visit: Any, painter: PlainPainter, server: Running) -> None:
    page = visit()
    painter.seconds = 0.5
    try:
        many_steps(page)
        draw(page, "left alone")
        page.get_by_text(re.compile(r"Step \d+ of 40")).wait_for()
        page.context.close()
        until(visit(), lambda: server.engine.places == 0)
    finally:
        painter.seconds = 0


def test_two_visitors_at_once_see_only_their_own(visit: Any, painter: PlainPainter) -> None:
    one, other = visit(), visit()
    painter.seconds = 0.2
    try:
        draw(one, "the first")
        draw(other, "the second")
        for page in (one, other):
            page.get_by_text("1 picture in").wait_for()
    finally:
        painter.seconds = 0
    shot(one, "two-visitors")
    for page, words, foreign in ((one, "the first", "the second"), (other, "the second", "the first")):
        assert page.locator("#history").get_by_text(words).count() == 1
        assert page.locator("#history").get_by_text(foreign).count() == 0
    assert (pixels(one, "#picture") != pixels(other, "#picture")).any()


def test_a_reload_keeps_the_history_and_a_click_brings_a_result_back(visit: Any) -> None:
    page = visit()
    drop(page, PNG)
    for words in ("first words", "second words"):
        draw(page, words)
        page.locator("#history").get_by_text(words).wait_for()
    page.reload()
    page.get_by_label("Instruction").wait_for()
    page.locator("#history").get_by_text("first words").wait_for()
    shot(page, "reloaded")
    page.locator("#history button").nth(1).click()
    page.locator("#slider img").last.wait_for()
    page.wait_for_function("document.querySelector('#instruction textarea').value == 'first words'")
    page.get_by_role("button", name="Edit this result").wait_for()
    page.get_by_role("button", name="Clear the history").click()
    page.locator("#history").wait_for(state="hidden")
    page.reload()
    page.get_by_label("Instruction").wait_for()
    page.wait_for_timeout(500)
    assert page.locator("#history").get_by_text("words").count() == 0


def test_an_example_of_each_task_begins_with_one_click(visit: Any, painter: PlainPainter) -> None:
    from tagmoe.serve.page.scenes import examples

    page = visit()
    page.get_by_role("tab", name="Examples").click()
    page.locator("#gallery img").first.wait_for()
    shot(page, "examples")
    assert page.locator("#gallery button img").count() == len(examples())
    number, example = next((n, one) for n, one in enumerate(examples()) if one.task == "recolour")
    page.locator("#gallery button").nth(number).click()
    page.locator("#pictures img").nth(len(example.pictures) - 1).wait_for()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("1 picture in").wait_for()
    assert painter.scenes[-1].prompt == example.instruction
    assert len(painter.scenes[-1].pictures) == len(example.pictures)


def test_everything_has_a_name_and_the_keyboard_reaches_it(visit: Any) -> None:
    page = visit()
    page.get_by_text("Advanced").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, select, button, [role=slider]')]
        .filter((one) => one.offsetParent !== null && one.type !== 'file')
        .filter((one) => !(one.labels?.length || one.ariaLabel || one.title || one.innerText?.trim()
                           || one.getAttribute('aria-labelledby')))
        .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    page.get_by_label("Instruction").focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''").strip())
    assert "Draw" in reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_it_fits_a_phone_in_light_and_dark(visit: Any, scheme: str, size: str) -> None:
    options = {"viewport": PHONE, "has_touch": True} if size == "phone" else {}
    page = visit(color_scheme=scheme, **options)
    drop(page, PNG)
    draw(page, "make it red")
    page.get_by_text("1 picture in").wait_for()
    shot(page, f"{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(250, 249, 246)", "dark": "rgb(22, 24, 27)"}[scheme]


def test_the_routing_of_a_real_model_is_shown(visit: Any) -> None:
    with serving(PipelinePainter(build_pipeline(), "tiny", threads=1), limits=Limits(wait=0), page=True) as server:
        page = visit(server)
        assert page.get_by_role("tab", name="Examples").count() == 0, "this model knows no TagWorld"
        drop(page, PNG)
        draw(page, TEXTS[1])
        page.get_by_text("1 picture in").wait_for()
        page.get_by_role("tab", name="Routing").click()
        frame = page.frame_locator("#routing iframe")
        frame.get_by_role("heading").first.wait_for()
        shot(page, "routing")


def join(server: Running, data: list[Any], fn: int = 0) -> httpx2.Response:
    root = server.url.removesuffix("/v1")
    body = {"data": data, "fn_index": fn, "session_hash": "abc", "event_data": None, "trigger_id": None}
    return httpx2.post(f"{root}/gradio_api/queue/join", json=body, timeout=30)


def outcome(server: Running) -> str:
    """What the events of the session say."""
    root = server.url.removesuffix("/v1")
    with httpx2.stream("GET", f"{root}/gradio_api/queue/data?session_hash=abc", timeout=30) as answer:
        return "".join(answer.iter_text())


@pytest.mark.parametrize("path", ["/etc/hostname", "https://example.org/x.png", "../../../etc/hostname"])
def test_no_path_and_no_url_of_a_client_is_read(
    server: Running, painter: PlainPainter, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    from tagmoe.serve.page import files

    left, before, kept = Left(monkeypatch), len(painter.scenes), sorted(files.folder().rglob("*"))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "url": path}
    wishes = [[{"image": file, "caption": None}], "x", "auto", 2, 1, "", 0, True, 1, [], False, None]
    assert join(server, wishes).status_code == 200
    said = outcome(server)
    assert '"success":false' in said.replace(" ", "")
    assert (left.places, len(painter.scenes)) == ([], before)
    assert sorted(files.folder().rglob("*")) == kept, "nothing was copied to where it can be asked for"


def test_an_upload_lies_under_its_digest_as_a_png_and_is_checked(server: Running) -> None:
    root = server.url.removesuffix("/v1")

    def upload(data: bytes, name: str = "../../secret name.png") -> httpx2.Response:
        return httpx2.post(f"{root}/gradio_api/upload", files={"files": (name, data)}, timeout=30)

    (path,) = upload(PNG).json()
    assert "secret" not in path
    assert Path(path).name == "picture.png"
    shown = httpx2.get(f"{root}/gradio_api/file={path}")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert upload(b"<svg onload=alert(1)>", "x.svg").status_code == 400
    assert upload(b"no picture").status_code == 400
    assert httpx2.post(f"{root}/gradio_api/upload", content=b"x").status_code == 400


def test_the_guard_stands_before_the_page_too(server: Running, painter: PlainPainter) -> None:
    root = server.url.removesuffix("/v1")
    assert httpx2.get(f"{root}/", headers={"Host": "evil.example"}).status_code == 403
    assert httpx2.post(f"{root}/gradio_api/queue/join", json={}, headers={"Origin": "http://evil"}).status_code == 403
    for path in ("/gradio_api/proxy=https://x.hf.space/y", "/gradio_api/file=/etc/passwd", "/monitoring", "/nothing"):
        answer = httpx2.get(root + path)
        assert (answer.status_code, set(answer.json()["error"])) == (404, {"message", "type", "param", "code"})
    assert httpx2.post(f"{root}/v1/models").status_code == 405
    with serving(painter, keys=[KEY], page=True) as keyed:
        root = keyed.url.removesuffix("/v1")
        basic = {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}
        refused = httpx2.get(f"{root}/")
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        assert httpx2.get(f"{root}/", headers=basic).status_code == 200
        assert httpx2.get(f"{root}/v1/models", headers=basic).status_code == 401, "the API takes bearer keys alone"
        cross = basic | {"Origin": "https://evil.example"}
        assert httpx2.post(f"{root}/gradio_api/queue/join", json={}, headers=cross).status_code == 403
        assert httpx2.get(f"{root}/gradio_api/file=/etc/passwd", headers=basic).status_code == 401


def test_no_request_leaves_the_machine_when_the_page_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    left = Left(monkeypatch)
    with serving(PlainPainter(), page=True) as server:
        root = server.url.removesuffix("/v1")
        text = httpx2.get(f"{root}/").text
        config = httpx2.get(f"{root}/config").json()
    assert left.places == []
    assert config["analytics_enabled"] is False
    assert "fonts.googleapis" not in text + json.dumps(config)
