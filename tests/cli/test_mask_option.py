"""`--mask`, `--negative-prompt` and the bar, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmoe.cli.metadata import read_facts

PROMPT = "make the circle red"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White strokes on a transparent layer, in the left half."""
    layer = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 32, 64))
    layer.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_outside_a_mask_the_source_stays_to_the_pixel(tagmoe, model, picture, mask, tmp_path) -> None:
    large = tmp_path / "large.png"
    Image.open(picture).resize((160, 160)).save(large)
    for source in (picture, large):
        out = tmp_path / f"of-{source.name}"
        outcome = tagmoe("edit", source, "-p", PROMPT, "-o", out, "-m", model, "--steps", 1, "--mask", mask, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["mask"] == str(mask)
        half = pixels(source).shape[1] // 2
        assert np.array_equal(pixels(out)[:, half:], pixels(source)[:, half:])
        assert (pixels(out)[:, :half] != pixels(source)[:, :half]).any()
        assert json.loads(read_facts(out)["mask"])["path"] == "mask.png"
    # Repeated with its mask.
    again = tmp_path / "again.png"
    assert tagmoe("edit", "--from", out, "-o", again, "-m", model).code == 0
    assert np.array_equal(pixels(again), pixels(out))
    Image.new("L", (64, 64), 255).save(mask)
    tagmoe("edit", "--from", out, "-o", tmp_path / "no.png", "-m", model).refused(2, "mask", "has changed")


def test_a_lossy_result_is_said(tagmoe, model, picture, mask, tmp_path) -> None:
    command = ["edit", picture, "-p", PROMPT, "-o", tmp_path / "a.jpg", "-m", model, "--steps", 1, "--mask", mask]
    assert "compresses with loss" in tagmoe(*command).err


@pytest.mark.slow
def test_masks_that_do_not_fit(tagmoe, model, picture, mask, tmp_path) -> None:
    common = ["-p", PROMPT, "-o", tmp_path / "out.png", "-m", model, "--steps", 1]
    wide = tmp_path / "wide.png"
    Image.new("L", (128, 64), 255).save(wide)
    tagmoe("edit", picture, *common, "--mask", wide, "--size", "64x64").refused(2, "--size does not go with --mask")
    tagmoe("edit", picture, *common, "--mask", tmp_path / "none.png").refused(2, "no picture file")
    for shape, part in ((wide, "The mask is 128x64"), (_black(tmp_path), "selects nothing")):
        outcome = tagmoe("edit", picture, *common, "--mask", shape)
        assert outcome.code == 2
        assert part in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out.png").exists()


def _black(folder: Path) -> Path:
    Image.new("RGBA", (64, 64), (255, 255, 255, 0)).save(folder / "black.png")
    return folder / "black.png"


@pytest.mark.slow
def test_in_a_batch_a_picture_that_the_mask_does_not_fit_fails_alone(tagmoe, model, picture, mask, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(picture, tmp_path / "in" / "a.png")
    Image.open(picture).resize((96, 64)).save(tmp_path / "in" / "b.png")
    out = tmp_path / "out"
    outcome = tagmoe("edit", tmp_path / "in", "-p", PROMPT, "-o", out, "-m", model, "--steps", 1, "--mask", mask)
    assert outcome.code == 1
    assert "b.png: failed: The mask is 64x64 and its picture 96x64" in outcome.err
    assert [path.name for path in out.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_a_negative_prompt_changes_the_picture_and_needs_guidance(tagmoe, model, picture, tmp_path) -> None:
    command = ["edit", picture, "-p", PROMPT, "-m", model, "--steps", 1, "--seed", 0]
    assert tagmoe(*command, "-o", tmp_path / "a.png").code == 0
    assert tagmoe(*command, "-o", tmp_path / "b.png", "--negative-prompt", "blue").code == 0
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    assert read_facts(tmp_path / "b.png")["negative_prompt"] == "blue"
    no = tmp_path / "no.png"
    tagmoe(*command, "-o", no, "--negative-prompt", "blue", "--cfg", 1).refused(2, "--negative-prompt needs guidance")
    tagmoe(*command, "-o", no, "--negative-prompt", "zebra").refused(2, "'zebra'")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["edit", "generate"])
def test_a_bar_shows_the_steps_on_a_terminal_only(tagmoe, model, picture, tmp_path, monkeypatch, verb) -> None:
    sources = [picture] if verb == "edit" else []
    command = [verb, *sources, "-p", "red circle", "-m", model, "--steps", 2, "--seed", "0-2", "-o"]
    outcome = tagmoe(*command, tmp_path / "quiet")
    assert outcome.code == 0
    assert "\x1b" not in outcome.err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    outcome = tagmoe(*command, tmp_path / "shown")
    assert outcome.code == 0, outcome.err
    assert "drawing" in outcome.err
    assert "6/6" in outcome.err
    assert "seed 2, 2 steps" in outcome.err
    assert outcome.out.count("\n") == 3
