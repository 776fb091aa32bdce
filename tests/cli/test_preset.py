"""`--preset release` of edit and generate: its steps, guidance and sizes, each of which an own option overrides."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from tagmoe.weights import presets

PROMPT = "make the circle red"


def drawn(tagmoe, *arguments: object) -> dict:
    outcome = tagmoe(*arguments, "--json", "--preset", "release", "--seed", 1)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.mark.slow
def test_steps_and_guidance_are_the_preset_s(tagmoe, model, picture, tmp_path) -> None:
    edit = ("edit", picture, "-p", PROMPT, "--model", model, "--size", "16x16")
    data = drawn(tagmoe, *edit, "-o", tmp_path / "a.png")
    assert (data["steps"], data["cfg"], data["preset"]) == (30, 4.0, "release")
    assert (data["width"], data["height"]) == (16, 16)
    data = drawn(tagmoe, *edit, "-o", tmp_path / "b.png", "--steps", 2, "--cfg", 0)
    assert (data["steps"], data["cfg"]) == (2, 0.0)
    assert Image.open(tmp_path / "b.png").text["preset"] == "release"
    data = drawn(tagmoe, "generate", "-p", PROMPT, "--model", model, "--size", "16x16", "-o", tmp_path / "c.png")
    assert (data["steps"], data["cfg"]) == (30, 4.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset's sizes at an eighth of their sides, so that a tiny model can draw them."""
    scaled = dataclasses.replace(
        presets.RELEASE,
        sizes=tuple((width // 8, height // 8) for width, height in presets.RELEASE.sizes),
        square=(128, 128),
    )
    monkeypatch.setitem(presets.PRESETS, "release", scaled)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("shape", "size"), [((200, 100), (168, 88)), ((10, 90), (64, 256)), ((70, 70), (128, 128))])
@pytest.mark.usefixtures("small")
def test_the_output_is_the_listed_size_nearest_to_the_picture(tagmoe, model, tmp_path, shape, size) -> None:
    picture = tmp_path / "in.png"
    Image.new("RGB", shape, "red").save(picture)
    data = drawn(tagmoe, "edit", picture, "-p", PROMPT, "-o", tmp_path / "o.png", "--model", model, "--steps", 1)
    assert (data["width"], data["height"]) == Image.open(tmp_path / "o.png").size == size


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_without_a_picture_it_is_the_square(tagmoe, model, tmp_path) -> None:
    data = drawn(tagmoe, "generate", "-p", PROMPT, "-o", tmp_path / "o.png", "--model", model, "--steps", 1)
    assert (data["width"], data["height"]) == (128, 128)


@pytest.mark.slow
def test_a_small_model_and_an_unknown_preset_are_refused(tagmoe, model, picture, tmp_path) -> None:
    edit = ("edit", picture, "-p", PROMPT, "-o", tmp_path / "o.png", "--model", model)
    tagmoe(*edit, "--preset", "release").refused(2, "'release' draws 1024x1024", "sides of 256 at most")
    tagmoe(*edit, "--preset", "authors").refused(2, "'authors'", "release")
    tagmoe("generate", "-p", PROMPT, "-o", tmp_path / "o.png", "--preset", "release").refused(2, "1024x1024")
    assert list(tmp_path.iterdir()) == []
