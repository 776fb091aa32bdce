"""The server against OpenAI's published document (openai_images.yaml beside this file) and against its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
import yaml
from PIL import Image
from support.serving import PlainPainter, Running, serving

from tagmoe.pictures import png_of
from tagmoe.serve.limits import Limits

FACTS = yaml.safe_load(Path(__file__).with_name("openai_images.yaml").read_text())
PNG = png_of(Image.new("RGB", (20, 10), "teal"))
ADDRESS = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
CLIENT = httpx2.Client(timeout=30)
"""One for all: a new one reads the certificates of all authorities."""
FIELDS = [
    (kind, name)
    for kind in FACTS["requests"]
    for name, facts in FACTS["fields"].items()
    if kind in facts.get("only", FACTS["requests"])
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(PlainPainter(), limits=Limits(wait=0)) as running, CLIENT:
        yield running


def ask(server: Running, kind: str, fields: dict[str, Any]) -> httpx2.Response:
    """A request of one of the three kinds with what it requires and these fields."""
    route = FACTS["requests"][kind]["route"].removeprefix("/v1")
    given = {"prompt": "x", **fields}
    if kind == "edit_form":
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        return CLIENT.post(server.url + route, data=form, files={"image": ("x", PNG)})
    if kind == "edit_json":
        given["images"] = [{"image_url": ADDRESS}]
    return CLIENT.post(server.url + route, json=given)


def fits(content: Any, answer: str) -> None:
    jsonschema.validate(content, FACTS["answers"][answer])


def events(text: str) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    found = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    named = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert named == [one["type"] for one in found]
    return found


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_value_of_the_document_is_drawn_or_refused_by_its_name(server: Running, kind: str, name: str) -> None:
    facts = FACTS["fields"][name]
    values = facts.get("choices") or facts["whole"]
    for value in values:
        answer = ask(server, kind, {name: value, **facts.get("with", {})})
        refused = facts["ours"] == "refused" or value in facts.get("refused", [])
        assert answer.status_code == (400 if refused else 200), (value, answer.text[:300])
        if refused:
            fits(answer.json(), "error")
            assert answer.json()["error"]["param"] == name
        elif "text/event-stream" in answer.headers["content-type"]:
            assert events(answer.text)[-1]["type"].endswith(".completed")
        else:
            fits(answer.json(), "images")
    if "whole" in facts and facts["ours"] == "honoured":
        for value in (facts["whole"][0] - 1, facts["whole"][1] + 1):
            answer = ask(server, kind, {name: value, **facts.get("with", {})})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("kind", FACTS["requests"])
def test_required_nulls_and_streams_are_as_in_the_document(server: Running, kind: str) -> None:
    if kind != "edit_form":
        answer = ask(server, kind, dict.fromkeys(FACTS["nullable"]))
        assert answer.status_code == 200
    route = FACTS["requests"][kind]["route"].removeprefix("/v1")
    content = {"data": {"n": "1"}, "files": {"image": ("x", PNG)}} if kind == "edit_form" else {"json": {"n": 1}}
    missing = CLIENT.post(server.url + route, **content).json()  # type: ignore[arg-type]
    fits(missing, "error")
    assert missing["error"]["param"] in FACTS["requests"][kind]["required"] + ["image"]
    streamed = ask(server, kind, {"stream": True, "partial_images": 3, "n": 2, "quality": "max"})
    found = events(streamed.text)
    prefix = "image_generation" if kind == "generate" else "image_edit"
    assert [one["type"] for one in found[-2:]] == [f"{prefix}.completed"] * 2
    for one in found:
        fits(one, one["type"].removeprefix(f"{prefix}."))


def test_models_prompt_and_number_of_images_are_as_in_the_document(server: Running) -> None:
    fits(CLIENT.get(f"{server.url}/models").json(), "models")
    most = FACTS["prompt"]["most_characters"]
    assert ask(server, "generate", {"prompt": "a" * most}).status_code == 200
    assert ask(server, "generate", {"prompt": "a" * (most + 1)}).json()["error"]["param"] == "prompt"
    for number, status in ((FACTS["images"]["most"], 200), (FACTS["images"]["most"] + 1, 400)):
        body = {"prompt": "x", "images": [{"image_url": ADDRESS}] * number}
        assert CLIENT.post(f"{server.url}/images/edits", json=body).status_code == status


def test_our_document_names_the_routes_the_bodies_and_every_field(server: Running) -> None:
    document = CLIENT.get(server.url.removesuffix("v1") + "openapi.json").json()
    for kind, facts in FACTS["requests"].items():
        operation = document["paths"][facts["route"]]["post"]
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        schema = operation["requestBody"]["content"][facts["content"]]["schema"]
        assert "prompt" in schema["required"]
        known = {name for name, field in FACTS["fields"].items() if field["ours"] != "refused"}
        wanted = {name for of, name in FIELDS if of == kind} & known
        assert wanted - set(schema["properties"]) == set()
