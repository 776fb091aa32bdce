"""A picture says how it was made, in every format, and can be drawn again from that."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmoe.cli.metadata import read_facts, save_options

PROMPT = "make the circle red"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def scene(picture: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(picture, tmp_path / "scene.png"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    facts = {"Software": "tagmoe", "prompt": 'ein "gr\u00fcner" Kreis \U0001f7e2', "seed": "7", "sources": "[]"}
    path = tmp_path / name
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    image.save(path, **save_options(Image.registered_extensions()[path.suffix], facts))
    assert read_facts(path) == facts
    image.save(path)
    assert read_facts(path) == {}


def test_what_others_wrote_is_no_record(tmp_path: Path) -> None:
    for comment in (b"ASCII\0\0\0hello", b"ASCII\0\0\0[1]", b"\xff\xfe", b""):
        exif = Image.Exif()
        exif[0x8769] = {0x9286: comment}
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
        assert read_facts(tmp_path / "a.jpg") == {}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", ["first.png", "first.jpg", "first.webp", "first.tif"])
def test_a_result_is_repeated_from_what_it_says(tagmoe, model, scene, tmp_path, name) -> None:
    first, again = tmp_path / name, tmp_path / f"again{Path(name).suffix}"
    made = tagmoe(
        "edit", scene, "-p", PROMPT, "-o", first, "-m", model, "--steps", 2, "--cfg", 2.5, "--negative-prompt", "blue"
    )
    assert made.code == 0, made.err
    outcome = tagmoe("edit", "--from", first, "-o", again, "-m", model, "--json")
    assert outcome.code == 0, outcome.err
    assert np.array_equal(pixels(first), pixels(again))
    told = json.loads(outcome.out)
    assert (told["steps"], told["cfg"], told["negative_prompt"]) == (2, 2.5, "blue")
    assert read_facts(first) == read_facts(again)


@pytest.mark.slow
def test_options_override_what_is_recorded(tagmoe, model, scene, tmp_path) -> None:
    first, other = tmp_path / "first.png", tmp_path / "other.png"
    assert tagmoe("edit", scene, "-p", PROMPT, "-o", first, "-m", model, "--steps", 2, "--seed", 5).code == 0
    command = ["edit", "--from", first, "-o", other, "-m", model, "--json", "--force"]
    told = json.loads(tagmoe(*command, "--seed", 6, "--steps", 1).out)
    assert (told["prompt"], told["seed"], told["steps"]) == (PROMPT, 6, 1)
    told = json.loads(tagmoe(*command, "-p", "remove the circle").out)
    assert (told["prompt"], told["seed"], told["steps"]) == ("remove the circle", 5, 2)
    Image.open(scene).rotate(90).save(tmp_path / "turned.png")
    assert tagmoe(*command[:1], tmp_path / "turned.png", *command[1:]).code == 0
    assert json.loads(read_facts(other)["sources"])[0]["path"] == "turned.png"
    outcome = tagmoe(*command[:3], *command[5:-2], "--num-images", 2, "--force", "-o", tmp_path / "more")
    assert len(outcome.out.split()) == 2, outcome.err


@pytest.mark.slow
def test_a_moved_project_still_repeats(tagmoe, model, scene, tmp_path) -> None:
    (tmp_path / "a" / "out").mkdir(parents=True)
    source, first = Path(shutil.move(scene, tmp_path / "a")), tmp_path / "a" / "out" / "first.png"
    assert tagmoe("edit", source, "-p", PROMPT, "-o", first, "-m", model, "--steps", 1).code == 0
    assert json.loads(read_facts(first)["sources"])[0]["path"] == "../scene.png"
    assert str(tmp_path) not in str(read_facts(first))
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = tmp_path / "b" / "out" / "first.png"
    assert tagmoe("edit", "--from", moved, "-o", tmp_path / "again.png", "-m", model).code == 0
    assert np.array_equal(pixels(moved), pixels(tmp_path / "again.png"))


def test_what_cannot_be_repeated_is_one_sentence(tagmoe, model, scene, tmp_path) -> None:
    first, out = tmp_path / "first.png", tmp_path / "out.png"
    assert tagmoe("edit", scene, "-p", PROMPT, "-o", first, "-m", model, "--steps", 1).code == 0
    kept = scene.read_bytes()

    def refused(*parts: str, verb: str = "edit", source: Path = first, options: tuple[object, ...] = ("-m", model)):
        tagmoe(verb, "--from", source, "-o", out, *options).refused(2, *parts)
        assert not out.exists()

    Image.new("RGB", (64, 64)).save(scene)
    refused("scene.png", "has changed")
    scene.unlink()
    refused("scene.png", "is missing")
    scene.write_bytes(kept)
    refused("was made by the model 'random'", "--model", options=())
    refused("was edited from 1 pictures", verb="generate")
    refused("does not say how it was made", source=scene)
    refused("no picture file", source=tmp_path / "none.png")
    drawn = tmp_path / "drawn.png"
    assert tagmoe("generate", "-p", "a red circle", "-o", drawn, "-m", model, "--steps", 1).code == 0
    refused("drawn from text alone", source=drawn)
    damaged = Image.open(first)
    facts = read_facts(first) | {"sources": "[{]"}
    damaged.save(tmp_path / "damaged.png", **save_options("PNG", facts))
    refused("cannot be read", source=tmp_path / "damaged.png")
    damaged.save(tmp_path / "lora.png", **save_options("PNG", read_facts(first) | {"lora": "style.safetensors"}))
    refused("LoRA style.safetensors", "--lora", source=tmp_path / "lora.png")


@pytest.mark.slow
def test_a_generated_picture_is_repeated(tagmoe, model, tmp_path) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    words = ["generate", "-p", "a red circle", "-o", first, "-m", model, "--steps", 1, "--size", "96x48"]
    assert tagmoe(*words).code == 0
    assert tagmoe("generate", "--from", first, "-o", again, "-m", model).code == 0
    assert np.array_equal(pixels(first), pixels(again))


def test_the_packaged_model_repeats_its_edit(tagmoe, tmp_path) -> None:
    first, again = tmp_path / "first.webp", tmp_path / "again.webp"
    words = ("edit", "example:scene", "-p", "make the star blue", "--steps", 3)
    assert tagmoe(*words, "-o", first).code == 0
    outcome = tagmoe("edit", "--from", first, "-o", again)
    assert outcome.code == 0, outcome.err
    assert np.array_equal(pixels(first), pixels(again))


def test_bmp_says_that_it_says_nothing(tagmoe, model, scene, tmp_path) -> None:
    outcome = tagmoe("edit", scene, "-p", PROMPT, "-o", tmp_path / "a.bmp", "-m", model, "--steps", 1)
    assert outcome.code == 0
    assert "BMP has no place for metadata" in outcome.err


class _Bytes(io.TextIOWrapper):
    """A stream of the process that holds bytes, as a pipe does."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_pictures_come_from_stdin_and_go_to_stdout(tagmoe, model, scene, tmp_path, monkeypatch) -> None:
    common = ["-p", PROMPT, "-m", model, "--steps", 1, "--seed", 0]
    assert tagmoe("edit", scene, *common, "-o", tmp_path / "file.png").code == 0
    monkeypatch.setattr(sys, "stdin", _Bytes(scene.read_bytes()))
    with monkeypatch.context() as patched:
        stdout = _Bytes()
        patched.setattr(sys, "stdout", stdout)
        from tagmoe.cli import run

        assert run(["edit", "-", *map(str, common), "-o", "-"]) == 0
        data = stdout.buffer.getvalue()  # type: ignore[attr-defined]
    (tmp_path / "piped.png").write_bytes(data)
    assert np.array_equal(pixels(tmp_path / "piped.png"), pixels(tmp_path / "file.png"))
    assert read_facts(tmp_path / "piped.png")["seed"] == "0"
    again = ["--from", tmp_path / "piped.png", "-o", tmp_path / "again.png", "-m", model]
    tagmoe("edit", *again).refused(2, "read from stdin; give it too")
    assert tagmoe("edit", scene, *again).code == 0
    assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / "file.png"))


def test_streams_that_cannot_be_used(tagmoe, model, scene, tmp_path, monkeypatch) -> None:
    common = ["-p", PROMPT, "-m", model, "-o", tmp_path / "out.png"]
    monkeypatch.setattr(sys, "stdin", _Bytes(b"no picture"))
    tagmoe("edit", "-", *common).refused(2, "stdin cannot be used (no picture)")
    monkeypatch.setattr(sys, "stdin", _Bytes(terminal=True))
    tagmoe("edit", "-", *common).refused(2, "nothing is piped")
    tagmoe("edit", scene, "--mask", "-", *common).refused(2, "--mask is -")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    tagmoe("edit", scene, "-p", PROMPT, "-m", model, "-o", "-").refused(2, "stdout is a terminal")
