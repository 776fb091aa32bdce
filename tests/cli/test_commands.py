"""The verbs at work: what they print, what they write, and what is said when they are stopped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROMPT = "make the circle red"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["edit", "--help"], ["info", "tags"], ["info", "settings"], ["info", "words"]]
)
def test_help_and_vocabulary_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from tagmoe.cli import run; code = run(sys.argv[1:]); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    result = python(code, *arguments)
    assert result.returncode == 0
    assert result.stderr.strip() == "[]"
    assert len(result.stdout.splitlines()) > 1 or "red" in result.stdout


@pytest.mark.slow
def test_the_console_script_exits_with_the_code_of_its_error() -> None:
    code = "import sys; sys.argv = ['tagmoe', 'train', 'no-such.yaml']; from tagmoe.cli import main; main()"
    result = python(code)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_early_gets_no_complaint() -> None:
    code = "import sys; from tagmoe.cli import run; sys.exit(run(['info', 'tags']))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 1


@pytest.mark.slow
def test_edit_writes_a_picture_that_says_how_it_was_made(tagmoe, model, picture, tmp_path) -> None:
    out = tmp_path / "out.png"
    outcome = tagmoe("edit", picture, "-p", PROMPT, "-o", out, "--model", model, "--steps", 2, "--seed", 7, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["output"] == str(out)
    assert (result["seed"], result["steps"], result["width"], result["height"]) == (7, 2, 64, 64)
    with Image.open(out) as image:
        assert image.size == (64, 64)
        assert image.text["prompt"] == PROMPT
        assert (image.text["seed"], image.text["steps"], image.text["model"]) == ("7", "2", "random")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_the_same_seed_gives_the_same_picture_and_force_replaces(tagmoe, model, picture, tmp_path) -> None:
    out, command = tmp_path / "out.png", ["-p", PROMPT, "--model", model, "--steps", 1, "--no-metadata"]
    assert tagmoe("edit", picture, *command, "-o", out, "--seed", 1).out.strip() == str(out)
    first = np.asarray(Image.open(out))
    assert not Image.open(out).text
    assert tagmoe("edit", picture, *command, "-o", out, "--seed", 2, "--force").code == 0
    assert (np.asarray(Image.open(out)) != first).any()
    assert tagmoe("edit", picture, *command, "-o", out, "--seed", 1, "--force").code == 0
    assert (np.asarray(Image.open(out)) == first).all()


@pytest.mark.slow
def test_every_kind_of_picture_is_accepted_and_resizing_is_said(tagmoe, model, picture, tmp_path) -> None:
    scene = Image.open(picture)
    scene.convert("RGBA").save(tmp_path / "rgba.png")
    scene.convert("L").save(tmp_path / "grey.png")
    Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    scene.save(tmp_path / "moving.gif", save_all=True, append_images=[scene.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    scene.resize((96, 48)).save(tmp_path / "turned.jpg", exif=exif)
    names = ["rgba.png", "grey.png", "sixteen.png", "moving.gif", "turned.jpg"]
    out = tmp_path / "out.jpg"
    command = ["-p", PROMPT, "-o", out, "--model", model, "--steps", 1]
    outcome = tagmoe("edit", *(tmp_path / name for name in names), *command)
    assert outcome.code == 0, outcome.err
    assert "turned.jpg' is 48x96" in outcome.err
    assert outcome.err.count("resized") == 1
    assert Image.open(out).size == (64, 64)


@pytest.mark.slow
def test_generate_needs_no_picture_and_takes_a_size(tagmoe, model, tmp_path) -> None:
    out = tmp_path / "out.webp"
    command = ["generate", "-p", "a red circle", "-o", out, "--model", model, "--steps", 1, "--size", "96x48"]
    assert tagmoe(*command).code == 0
    assert Image.open(out).size == (96, 48)


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of four tasks: the command does the same with all of them."""
    monkeypatch.setattr("tagmoe.evaluate.tagworld.TASKS", ("generate", "recolour", "style", "hair"))


@pytest.mark.slow
@pytest.mark.usefixtures("few_tasks")
def test_a_demo_writes_both_files_and_is_replaced_only_by_force(tagmoe, model, tmp_path) -> None:
    folder = tmp_path / "demo"
    command = ["demo", "--out", folder, "--cases", 1, "--steps", 1, "--model", model]
    outcome = tagmoe(*command, "--json")
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)
    assert data["report"] == str(folder / "report.html")
    assert data["n"] == len(data["cases"]) == len(data["tasks"])
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json"]
    assert json.loads((folder / "results.json").read_text())["success"] == data["success"]
    assert "<svg" in (folder / "report.html").read_text()
    assert str(tmp_path) not in (folder / "report.html").read_text()
    tagmoe(*command).refused(2, "--force")
    again = tagmoe(*command, "--force")
    assert again.code == 0
    assert again.out.strip() == str(folder / "report.html")
    assert "success" in again.err
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.usefixtures("few_tasks")
def test_a_demo_that_fails_leaves_nothing(tagmoe, model, tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken\nfor a test")

    monkeypatch.setattr("tagmoe.evaluate.report.render", fail)
    command = ["demo", "--out", tmp_path / "demo", "--cases", 1, "--steps", 1, "--model", model]
    outcome = tagmoe(*command)
    assert outcome.code == 1
    assert "\ninternal error: RuntimeError: broken for a test; run again with --debug" in outcome.err
    assert len(outcome.err.splitlines()) == 2  # the first says that the model may have seen the cases
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" in tagmoe(*command, "--debug").err


def test_an_interrupt_ends_with_130_and_leaves_nothing(tagmoe, model, picture, tmp_path, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tagmoe.pipeline.pipeline.TagMoEPipeline.__call__", stop)
    outcome = tagmoe("edit", picture, "-p", PROMPT, "-o", tmp_path / "out.png", "--model", model)
    assert outcome.code == 130
    assert outcome.out == ""
    assert outcome.err.startswith("interrupted: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: elsewhere\nbase: {steps: 1}\nunified: {steps: 1}\nvalidation_cases: 1\n")
    return path


def test_train_hands_the_settings_on_and_prints_the_model(tagmoe, recipe, tmp_path, monkeypatch) -> None:
    calls = []

    def run(config, *, validator, resume):
        calls.append((config, resume))
        assert callable(validator)
        return Path(config.output_dir) / "model"

    monkeypatch.setattr("tagmoe.train.recipe.train", run)
    folder = tmp_path / "a: b # c"
    outcome = tagmoe("train", recipe, "--set", "loss.lambda_align=0.3", "--output-dir", folder, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    (config, resume) = calls[0]
    assert (config.output_dir, config.loss.lambda_align, resume) == (str(folder), 0.3, True)
    assert json.loads(outcome.out)["model"] == str(folder / "model")
    assert tagmoe("train", recipe).out.strip() == "elsewhere/model"


def test_stopped_training_says_how_to_go_on(tagmoe, recipe, monkeypatch) -> None:
    def run(config, *, validator, resume):
        raise KeyboardInterrupt("base: stopped at step 3 of 9 and saved.")

    monkeypatch.setattr("tagmoe.train.recipe.train", run)
    outcome = tagmoe("train", recipe)
    assert outcome.code == 130
    assert "stopped at step 3 of 9 and saved. Add --resume" in outcome.err


def dense_pipeline(model: Path, folder: Path) -> Path:
    """The random model with a dense transformer of stock diffusers in it."""
    from diffusers import QwenImageTransformer2DModel

    shutil.copytree(model, folder)
    shutil.rmtree(folder / "transformer")
    QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    ).save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "QwenImageTransformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.usefixtures("drift_here")
def test_upcycling_a_pipeline_gives_one_that_draws(tagmoe, model, tmp_path) -> None:
    dense, made = dense_pipeline(model, tmp_path / "dense"), tmp_path / "moe"
    outcome = tagmoe("upcycle", dense, made, "--num-moe-blocks", 2, "--num-experts", 3, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["drift"] < 1e-2
    facts = json.loads(tagmoe("info", "model", "--model", made, "--json").out)
    assert (facts["num_moe_blocks"], facts["num_experts"], facts["num_layers"]) == (2, 3, 3)
    out = tmp_path / "out.png"
    assert tagmoe("generate", "-p", "a red circle", "-o", out, "--model", made, "--steps", 1).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe", "out.png"]


@pytest.mark.slow
def test_upcycling_a_transformer_prints_the_drift_of_its_mode(tagmoe, model, tmp_path) -> None:
    dense, made = dense_pipeline(model, tmp_path / "dense") / "transformer", tmp_path / "moe"
    exact = tagmoe("upcycle", dense, made, "--num-moe-blocks", 1)
    assert exact.code == 0, exact.err
    assert exact.out == f"{made}\n"
    plain = tagmoe("upcycle", dense, made, "--num-moe-blocks", 1, "--mode", "plain", "--force")
    drift = [float(re.findall(r"drift: (\S+)", outcome.err)[0]) for outcome in (exact, plain)]
    assert drift[0] < drift[1]
    assert (made / "config.json").is_file()


def test_info_says_what_is_installed_and_what_words_mean(tagmoe, model) -> None:
    data = json.loads(tagmoe("info", "--json").out)
    assert data["versions"]["tagmoe"]
    assert data["devices"][0].startswith("cpu")
    assert data["packaged_model"] in ("installed", "not installed")
    tags = json.loads(tagmoe("info", "tags", "--json").out)["tags"]
    assert len(tags) == 18
    assert all(tag["definition"] in tagmoe("info", "tags").out for tag in tags[:2])
    assert "loss.lambda_align" in tagmoe("info", "settings").out.split()
    assert "sunglasses" in json.loads(tagmoe("info", "words", "--json").out)["words"]
    facts = json.loads(tagmoe("info", "model", "--model", model, "--json").out)
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    pipeline = TagMoEPipeline.from_pretrained(model)
    count = {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in ("transformer", "vae")}
    assert {name: facts["parameters"][name] for name in count} == count


def test_version(tagmoe) -> None:
    from tagmoe import __version__

    assert tagmoe("--version").out.strip() == __version__


@pytest.mark.usefixtures("few_tasks")
def test_a_whole_run_from_recipe_to_picture(tagmoe, picture, tmp_path, monkeypatch) -> None:
    from tagmoe.train.autoencoder import measure_latents

    # Drawing the texts for the tokenizer would take longer than all the rest.
    monkeypatch.setattr("tagmoe.train.components_folder.TOKENIZER_TEXTS", 200)
    monkeypatch.setattr("tagmoe.train.text_encoder.VALIDATION_TEXTS", 16)
    measured = partial(measure_latents, count=64)
    monkeypatch.setattr("tagmoe.train.components_folder.measure_latents", measured)
    recipe = tmp_path / "recipe.yaml"
    stage = "{steps: 2, batch: 4, unique_samples: 8}"
    recipe.write_text(
        f"output_dir: {tmp_path / 'run'}\ncomponents: null\nvalidation_cases: 1\nbase: {stage}\nunified: {stage}\n"
        "autoencoder: {steps: 1, batch: 2, base_dim: 4, z_dim: 4}\n"
        "text_encoder: {steps: 1, batch: 2, hidden_size: 32, num_layers: 1, intermediate_size: 32}\n"
    )
    small = ("transformer.num_layers=2", "transformer.num_attention_heads=1", "moe.num_moe_blocks=1")
    outcome = tagmoe("train", recipe, *(word for change in small for word in ("--set", change)))
    assert outcome.code == 0, outcome.err
    model = outcome.out.strip()
    assert model == str(tmp_path / "run" / "model")
    assert list((tmp_path / "run" / "validation").glob("*.png"))
    out = tmp_path / "out.png"
    assert tagmoe("edit", picture, "-p", PROMPT, "-o", out, "--model", model, "--steps", 2).code == 0
    assert Image.open(out).size == (64, 64)
