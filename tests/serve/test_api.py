"""The server by the real client of OpenAI, on loopback: fields, pictures, streams, errors."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image
from support.serving import PlainPainter, Running, picture_of, serving

from tagmoe.pictures import load_image, png_of
from tagmoe.rewrite.rewriter import Rewriting
from tagmoe.serve.limits import Limits
from tagmoe.serve.prompts import Prompts

PNG = png_of(Image.new("RGB", (20, 10), "teal"))


class Polite:
    """A rewriter that strikes out "please"."""

    def rewrite(self, prompt: str, pictures: Any) -> Rewriting:
        text = prompt.replace(" please", "")
        return Rewriting(prompt, text, "ok" if text != prompt else "fallback", reason="nothing was polite")


@pytest.fixture(scope="module")
def painter() -> PlainPainter:
    return PlainPainter()


@pytest.fixture(scope="module")
def server(painter: PlainPainter) -> Iterator[Running]:
    with serving(painter, prompts=Prompts(Polite()), limits=Limits(n=4, pixels=10_000, prompt=500)) as running:
        yield running


def post(server: Running, route: str, **options: Any) -> Any:
    """A request by the client's own transport, as it is."""
    import httpx2

    return httpx2.post(f"{server.url}/{route}", timeout=30, **options)


def opened(entry: Any) -> Image.Image:
    return load_image(base64.b64decode(entry.b64_json))


def test_one_picture_several_and_addresses_arrive_in_order(server: Running, painter: PlainPainter) -> None:
    client = server.client()
    found = client.images.edit(model="gpt-image-2", image=("a/../b.png", PNG), prompt="one", extra_body={"seed": 7})
    assert opened(found.data[0]).getpixel((0, 0)) == picture_of("one", 7).getpixel((0, 0))
    assert (found.size, found.background, found.output_format, found.data[0].seed) == ("16x16", "opaque", "png", 7)
    sizes = [(8, 4), (16, 4), (24, 4)]
    files = [(f"{n}.png", png_of(Image.new("RGB", size))) for n, size in enumerate(sizes)]
    client.images.edit(model="m", image=files, prompt="many")
    assert [picture.size for picture in painter.scenes[-1].pictures] == sizes
    addresses = [{"image_url": f"data:image/png;base64,{base64.b64encode(data).decode()}"} for _, data in files]
    answer = post(server, "images/edits", json={"prompt": "json", "images": addresses})
    assert answer.status_code == 200
    assert [picture.size for picture in painter.scenes[-1].pictures] == sizes
    answer = post(server, "images/edits", data={"prompt": "p", "mask": ""}, files={"image[]": ("x", PNG)})
    assert answer.status_code == 200


def test_every_field_reaches_the_painter(server: Running, painter: PlainPainter) -> None:
    found = server.client().images.generate(
        prompt="fields please",
        model="m",
        n=3,
        size="64x32",
        quality="high",
        user="u",
        moderation="low",
        output_format="webp",
        output_compression=80,
        extra_body={"seed": 5, "steps": 2, "cfg": 2.5, "negative_prompt": "fog", "complexity": "low", "foo": [1]},
    )
    scene = painter.scenes[-1]
    assert (scene.prompt, scene.size, scene.steps, scene.cfg, scene.negative) == ("fields", (64, 32), 2, 2.5, "fog")
    assert [entry.seed for entry in found.data] == [5, 6, 7]
    assert [entry.revised_prompt for entry in found.data] == ["fields"] * 3
    assert base64.b64decode(found.data[0].b64_json)[8:12] == b"WEBP"
    assert painter.batches[-1] == [("fields", 5), ("fields", 6), ("fields", 7)]
    form = {"prompt": "form", "seed": "9", "steps": "3", "cfg": "1.5", "n": "2", "stream": "false"}
    assert post(server, "images/edits", data=form, files={"image": ("x", PNG)}).status_code == 200
    assert (painter.scenes[-1].steps, painter.scenes[-1].cfg, len(painter.batches[-1])) == (3, 1.5, 2)


def test_a_foreign_model_is_accepted_and_the_real_one_named(server: Running) -> None:
    client = server.client()
    answer = client.images.with_raw_response.generate(prompt="x", model="dall-e-3")
    assert answer.headers["x-tagmoe-model"] == "plain"
    assert [model.id for model in client.models.list().data] == ["plain"]
    assert post(server, "images/generations", json={"prompt": "no model"}).status_code == 200


@pytest.mark.parametrize("edits", [False, True])
def test_a_stream_shows_previews_and_then_the_picture(server: Running, edits: bool) -> None:
    options: dict[str, Any] = {"prompt": "s please", "model": "m", "stream": True, "partial_images": 2, "n": 2}
    images = server.client().images
    made = images.edit(image=("x", PNG), **options) if edits else images.generate(**options)
    events = list(made)
    name = "image_edit" if edits else "image_generation"
    kinds = [event.type.removeprefix(f"{name}.") for event in events]
    assert sorted(kinds) == ["completed"] * 2 + ["partial_image"] * 4
    assert [e.partial_image_index for e in events if e.type.endswith("partial_image")] == [0, 0, 1, 1]
    last = events[-1]
    assert (last.size, last.background, last.output_format, last.quality) == ("16x16", "opaque", "png", "auto")
    assert (last.usage.total_tokens, last.revised_prompt) == (3, "s")
    assert opened(last).getpixel((0, 0)) == picture_of("s", last.seed).getpixel((0, 0))


REFUSED = [
    ({"background": "transparent"}, "background"),
    ({"input_fidelity": "low"}, "input_fidelity"),
    ({"output_format": "svg"}, "output_format"),
    ({"output_format": "gif", "frame_count": 3}, "frame_count"),
    ({"frame_duration_ms": 20}, "frame_duration_ms"),
    ({"svg": {"model": "m"}}, "svg"),
    ({"markup": "x"}, "markup"),
    ({"style": "vivid"}, "style"),
    ({"response_format": "url"}, "response_format"),
    ({"n": 5}, "n"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"n": "two"}, "n"),
    ({"size": "big"}, "size"),
    ({"size": "2000x2000"}, "size"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63 - 1, "n": 2}, "seed"),
    ({"steps": 1001}, "steps"),
    ({"cfg": "nan"}, "cfg"),
    ({"prompt": " "}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": "a" * 501}, "prompt"),
    ({"prompt": "forbidden"}, "prompt"),
    ({"stream": "maybe"}, "stream"),
    ({"partial_images": 4, "stream": True}, "partial_images"),
    ({"partial_images": 1}, "partial_images"),
    ({"metadata": True, "output_format": "jpeg"}, "metadata"),
    ({"lora": {"a": 1000}}, "lora"),
    ({"lora": 3}, "lora"),
    ({"image": "data:,"}, "image"),
    ({"model": 3}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_its_name(server: Running, fields: dict[str, Any], param: str) -> None:
    answer = post(server, "images/generations", json={"prompt": "x", **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param.split("_")[0] in error["message"] or param in ("prompt", "image")


def test_null_counts_as_left_out(server: Running) -> None:
    fields = dict.fromkeys(("background", "input_fidelity", "svg", "frame_count", "n", "size", "mask", "lora", "style"))
    assert post(server, "images/generations", json={"prompt": "x", **fields}).status_code == 200


def test_errors_are_those_of_the_client(server: Running) -> None:
    client = server.client()
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(model="m", image=("x", PNG), prompt="forbidden")
    assert (caught.value.param, caught.value.type) == ("prompt", "invalid_request_error")
    assert "nothing was polite" in str(caught.value), "why it was not rewritten"
    with pytest.raises(openai.NotFoundError, match="Not Found"):
        client.chat.completions.create(model="m", messages=[])
    assert post(server, "images/edits", json={"prompt": "x"}).json()["error"]["param"] == "image"
    assert post(server, "images/edits", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert post(server, "models").status_code == 405
    unreadable = post(server, "images/edits", data={"prompt": "x"}, files={"image": ("x", b"no picture")})
    assert (unreadable.status_code, unreadable.json()["error"]["param"]) == (400, "image")


def test_a_broken_painter_fails_its_own_request_and_tells_nothing(server: Running, painter: PlainPainter) -> None:
    painter.fails = "break"
    try:
        answer = post(server, "images/generations", json={"prompt": "break"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert json.loads(answer.text)["error"]["code"] == "internal_error"
    finally:
        painter.fails = None
    assert post(server, "images/generations", json={"prompt": "x"}).status_code == 200


def test_metadata_is_written_on_request_only(server: Running) -> None:
    for wanted in (False, True):
        answer = post(server, "images/generations", json={"prompt": "x", "seed": 3, "metadata": wanted})
        with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as picture:
            assert (picture.info.get("seed") == "3") is wanted
            assert bool(picture.info) is wanted


def test_a_mask_is_read_as_openai_does_and_without_transparency_as_white(server: Running, painter) -> None:
    hole = Image.new("RGBA", (20, 10), (9, 9, 9, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 5, 10))
    white = Image.new("L", (20, 10), 0)
    white.paste(255, (0, 0, 5, 10))
    for mask in (hole, white):
        answer = server.client().images.edit(model="m", image=("x", PNG), mask=("m.png", png_of(mask)), prompt="x")
        assert answer.data
        assert painter.scenes[-1].mask.getbbox() == (0, 0, 5, 10)


def test_health_and_metrics(server: Running) -> None:
    import httpx2

    root = server.url.removesuffix("/v1")
    assert httpx2.get(f"{root}/health").json() == {"status": "ok"}
    text = httpx2.get(f"{root}/metrics").text
    assert 'tagmoe_requests_total{route="/v1/images/generations",status="200"}' in text
    assert "tagmoe_queue_places 0.0" in text
