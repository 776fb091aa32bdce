"""Texts that have broken writers: a result holds them exactly and is drawn again from them, or a sentence refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.nasty_strings import NASTY

from tagmoe.cli import metadata
from tagmoe.cli.metadata import read_facts, save_options

FORMATS = {"a.png": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP", "a.tif": "TIFF"}
TEXTS = pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))


@pytest.fixture(scope="module")
def open_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that takes any word."""
    folder = tmp_path_factory.mktemp("models") / "open"
    shutil.copytree(model, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"known_words": None, "max_prompt_tokens": 512}))
    return folder


@TEXTS
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_every_text(tmp_path: Path, text: str, name: str) -> None:
    facts = {"prompt": text, "negative_prompt": text, "model": text, "sources": json.dumps([{"path": text}])}
    Image.new("RGB", (16, 16)).save(tmp_path / name, **save_options(FORMATS[name], facts))
    assert read_facts(tmp_path / name) == facts


@pytest.mark.slow_but_first
@TEXTS
def test_a_result_is_drawn_again_from_every_text(tagmoe, open_model, picture, tmp_path, text) -> None:
    number = list(NASTY.values()).index(text)
    name = list(FORMATS)[number % len(FORMATS)]
    scene = tmp_path / (text.replace("/", "").replace("\0", "")[:60] + ".png")
    shutil.copy(picture, scene)
    first, again = tmp_path / name, tmp_path / f"again{name[1:]}"
    words = ["edit", scene, "-p", text, "--negative-prompt", text, "-o", first, "-m", open_model, "--steps", 1]
    made = tagmoe(*words, "--cfg", 2)
    if made.code:
        made.refused(2)
        assert not first.exists()
        return
    assert read_facts(first)["prompt"] == read_facts(first)["negative_prompt"] == text
    repeated = tagmoe("edit", "--from", first, "-o", again, "-m", open_model, "--json")
    assert repeated.code == 0, repeated.err
    told = json.loads(repeated.out)
    assert (told["prompt"], told["negative_prompt"]) == (text, text)
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert read_facts(again) == read_facts(first)


def test_a_jpeg_that_cannot_hold_it_is_kept_and_says_so(tagmoe, model, picture, tmp_path, monkeypatch) -> None:
    for name, kind in FORMATS.items():
        facts = {"prompt": "x" * 70_000}
        Image.new("RGB", (16, 16)).save(tmp_path / name, **save_options(kind, facts))
        assert read_facts(tmp_path / name) == ({} if kind == "JPEG" else facts)
    # No prompt of the tiny model is that long.
    monkeypatch.setattr(metadata, "MOST_JPEG", 100)
    words = ["edit", picture, "-p", "make the circle red", "-m", model, "--steps", 1, "--num-images", 2]
    made = tagmoe(*words, "-o", tmp_path / "b.jpg")
    assert made.code == 0, made.err
    assert made.err.count("JPEG has no place for that much metadata") == 1
    assert [read_facts(Path(name)) for name in made.out.split()] == [{}, {}]


def exif_of_json(text: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + text.encode()
    return exif.tobytes()


def test_what_was_tampered_with_is_one_sentence(tagmoe, tmp_path) -> None:
    path, out = tmp_path / "a.webp", tmp_path / "out.png"
    facts = {"prompt": "a", "seed": "0", "steps": "1", "cfg": "1", "model": "tagworld", "sources": "[]"}
    broken = {
        "prompt": "a\ud800",
        "sources": "[" * 100_000,
        "seed": "9" * 5000,
        "mask": '{"path": "a\\u0000b", "sha256": ""}',
        "version": "1\n2\u2028error: done",
    }
    for name, value in broken.items():
        Image.new("RGB", (16, 16)).save(path, exif=exif_of_json(json.dumps(facts | {name: value})))
        outcome = tagmoe("edit", "--from", path, "-o", out)
        assert outcome.code == 2, (name, outcome)
        assert len(outcome.err.strip().splitlines()) == (2 if name == "version" else 1), outcome.err
    Image.new("RGB", (16, 16)).save(path, exif=exif_of_json("[" * 60_000))
    tagmoe("edit", "--from", path, "-o", out).refused(2, "does not say how it was made")
