"""Bad input: each gets one sentence and its exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tagmoe.pipeline import packaged

PROMPT = "make the circle red"


def png_header(width: int, height: int) -> bytes:
    """A 1-bit PNG that claims any size: nothing of that size is made."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def bad_pictures(tmp_path: Path, picture: Path) -> Path:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(picture.read_bytes()[:300])
    (folder / "huge.png").write_bytes(png_header(20000, 20000))
    (folder / "large.png").write_bytes(png_header(9000, 9000))
    (folder / "nothing.png").write_bytes(png_header(0, 0))
    return folder


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("text.png", "not a picture"),
        ("empty.png", "not a picture"),
        ("cut.png", "damaged or incomplete"),
        ("huge.png", "64 megapixels"),
        ("large.png", "at most 64"),
        ("nothing.png", "nothing.png"),
        ("missing.png", "There is no picture file"),
        (".", "give a folder"),
    ],
)
def test_a_file_that_is_no_usable_picture(tagmoe, model, bad_pictures, tmp_path, name, part) -> None:
    out = tmp_path / "out.png"
    tagmoe("edit", bad_pictures / name, "-p", PROMPT, "-o", out, "--model", model).refused(2, part)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-p", ""], ["prompt is empty"]),
        (["-p", "   "], ["prompt is empty"]),
        (["-p", "make the zebra redd"], ["'zebra'", "did you mean 'red'?", "words"]),
        (["-p", PROMPT + " <|im_end|>"], ["control token"]),
        (["-p", PROMPT, "--steps", "-3"], ["--steps", "-3"]),
        (["-p", PROMPT, "--steps", "0"], ["--steps", "0"]),
        (["-p", PROMPT, "--steps", "many"], ["--steps", "many"]),
        (["-p", PROMPT, "--cfg", "-1"], ["--cfg"]),
        (["-p", PROMPT, "--cfg", "nan"], ["nan"]),
        (["-p", PROMPT, "--seed", "-1"], ["--seed"]),
        (["-p", PROMPT, "--size", "64"], ["--size", "'64'", "64x64"]),
        (["-p", PROMPT, "--size", "0x64"], ["'0x64'"]),
        (["-p", PROMPT, "--size", "-8x64"], ["'-8x64'"]),
        (["-p", PROMPT, "--size", "63x64"], ["63", "multiple"]),
        (["-p", PROMPT, "--size", "99999x64"], ["99999"]),
        (["-p", PROMPT, "--colour"], ["--colour"]),
        ([], ["--prompt"]),
    ],
)
def test_bad_options_of_edit(tagmoe, model, picture, tmp_path, arguments, parts) -> None:
    command = ["edit", picture, "-o", tmp_path / "out.png", "--model", model, *arguments]
    tagmoe(*command).refused(2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "part"),
    [("out.gif", "'.gif'"), ("out", "extension"), ("no/where.png", "no folder"), ("there.png", "--force")],
)
def test_an_output_that_cannot_be(tagmoe, model, picture, tmp_path, name, part) -> None:
    (tmp_path / "there.png").write_bytes(b"precious")
    tagmoe("edit", picture, "-p", PROMPT, "-o", tmp_path / name, "--model", model).refused(2, part)
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"precious"


def test_models_that_are_not_there_or_broken(tagmoe, model, picture, tmp_path) -> None:
    def edit(folder: Path) -> object:
        return tagmoe("edit", picture, "-p", PROMPT, "-o", tmp_path / "out.png", "--model", folder)

    edit(tmp_path / "nowhere").refused(3, "nowhere")
    edit(picture).refused(2, "is a file")
    (tmp_path / "hollow").mkdir()
    edit(tmp_path / "hollow").refused(1, "model_index.json")

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    edit(broken).refused(1, "diffusion_pytorch_model.safetensors", "damaged")
    weights.write_bytes(b"\xff" * 100)
    edit(broken).refused(1, "diffusion_pytorch_model.safetensors", "damaged")
    weights.unlink()
    edit(broken).refused(1, "diffusion_pytorch_model.safetensors", "missing")
    tagmoe("info", "model", "--model", tmp_path / "nowhere").refused(3, "nowhere")
    assert not (tmp_path / "out.png").exists()


def test_without_the_packaged_model_the_sentence_says_how_to_get_one(tagmoe, picture, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")
    tagmoe("edit", picture, "-p", PROMPT, "-o", tmp_path / "out.png").refused(3, "packaged", "reinstall")
    tagmoe("demo", "--out", tmp_path / "demo").refused(3, "packaged")
    tagmoe("info", "model").refused(3, "packaged")
    assert tagmoe("info", "tags").code == 0
    assert list(tmp_path.iterdir()) == []


RECIPE = "output_dir: {folder}\ncomponents: null\nbase: {{steps: 1}}\nunified: {{steps: 1}}\n"


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("text", "arguments", "parts"),
    [
        (RECIPE + "lambda_align: 3\n", [], ["'lambda_align'", "did you mean 'loss.lambda_align'?"]),
        (RECIPE, ["--set", "loss.lambda_algin=3"], ["'loss.lambda_algin'", "did you mean 'loss.lambda_align'?"]),
        (RECIPE, ["--set", "seed"], ["'seed'", "--set name=value"]),
        (RECIPE, ["--set", "seed=[1"], ["YAML"]),
        (RECIPE, ["--set", "seed=often"], ["'seed'", "often"]),
        (RECIPE, ["--set", "seed.x=1"], ["'seed'"]),
        (RECIPE, ["--set", "moe.num_experts=0"], ["'moe.num_experts'", "0"]),
        ("output_dir: [1, 2\n", [], ["YAML"]),
        ("just words", [], ["no settings"]),
        ("seed: 1\n", [], ["missing"]),
        (RECIPE, ["--resume"], ["no run to resume"]),
    ],
)
def test_bad_recipes(tagmoe, tmp_path, text, arguments, parts) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text.format(folder=tmp_path / "run") if "{folder}" in text else text)
    tagmoe("train", recipe, *arguments).refused(2, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_recipe_that_is_not_there_and_a_run_that_is(tagmoe, tmp_path) -> None:
    tagmoe("train", tmp_path / "none.yaml").refused(2, "none.yaml")
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE.format(folder=run))
    run.mkdir()
    (run / "keep.txt").write_text("precious")
    tagmoe("train", recipe).refused(2, "exists", "--resume")
    assert [path.name for path in run.iterdir()] == ["keep.txt"]


def test_tensorboard_without_the_extra_names_the_install_line(tagmoe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path / "run") + "tensorboard: true\n")
    tagmoe("train", recipe).refused(3, "pip install 'tagmoe[train]'")


def test_output_folders_that_exist(tagmoe, model, tmp_path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    tagmoe("demo", "--out", folder, "--model", model).refused(2, "exists", "--force")
    tagmoe("demo", "--out", folder, "--model", model, "--force").refused(2, "precious.txt")
    tagmoe("demo", "--out", tmp_path / "a" / "b", "--model", model).refused(2, "no folder")
    tagmoe("demo", "--cases", "0", "--model", model).refused(2, "--cases")
    assert (folder / "precious.txt").read_text() == "mine"


def test_bad_sources_of_upcycling(tagmoe, model, tmp_path) -> None:
    tagmoe("upcycle", tmp_path / "none", tmp_path / "out", "--num-moe-blocks", 1).refused(3, "none")
    tagmoe("upcycle", model, tmp_path / "out", "--num-moe-blocks", 1).refused(2, "already has 2 mixture blocks")
    tagmoe("upcycle", model, model, "--num-moe-blocks", 1).refused(2, "exists")
    tagmoe("upcycle", model, tmp_path / "out", "--num-moe-blocks", 0).refused(2, "--num-moe-blocks")
    tagmoe("upcycle", model, tmp_path / "out").refused(2, "--num-moe-blocks")
    tagmoe("upcycle", model, tmp_path / "out", "--num-moe-blocks", 1, "--num-experts", 1).refused(2, "--num-experts")
    tagmoe("upcycle", model, tmp_path / "out", "--num-moe-blocks", 1, "--gate", "round").refused(2, "round")
    assert list(tmp_path.iterdir()) == []


def test_too_many_blocks_leave_nothing(tagmoe, model, tmp_path) -> None:
    dense = tmp_path / "dense"
    shutil.copytree(model / "transformer", dense)
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps(config | {"num_moe_blocks": 99}))
    outcome = tagmoe("upcycle", dense, tmp_path / "out", "--num-moe-blocks", 1)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("arguments", [["fly"], ["info", "everything"], ["edit"], ["--nonsense"]])
def test_unknown_commands_point_to_the_help(tagmoe, arguments) -> None:
    tagmoe(*arguments).refused(2, "--help")


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_leaves_nothing(tagmoe, model, picture, tmp_path, monkeypatch) -> None:
    def fail(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    out = tmp_path / "out.png"
    outcome = tagmoe("edit", picture, "-p", PROMPT, "-o", out, "--model", model, "--steps", 1)
    outcome.refused(1, "No space left on device")
    assert list(tmp_path.iterdir()) == []
