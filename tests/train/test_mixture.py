"""A run that goes on with a finished mixture: its experts, gates, W_tag and H_pred, and settings that contradict it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.tiny_training import tiny_config, train_quietly

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import ConfigError, MissingError
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train import progress
from tagmoe.train.mixture import with_mixture
from tagmoe.train.recipe import train

Make = Callable[..., RunConfig]
RunTraining = Callable[..., Path]
WEIGHTS = "diffusion_pytorch_model.safetensors"
STAGES = {"base": {"steps": 0}, "unified": {"steps": 0, "batch": 4, "unique_samples": 64, "text_to_image_every": 3}}


@pytest.fixture(scope="module")
def finished(components: str, latents: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a mixture of three experts with a head of another width. Read it, do not change it."""
    moe = {"num_moe_blocks": 2, "num_experts": 3, "top_k": 2, "gate": "linear"}
    loss = {"semantic_dim": 20, "head_hidden": 12, "head_layers": 3}
    folder = tmp_path_factory.mktemp("mixture") / "first"
    changes = {"moe": moe, "loss": loss, "base": {"steps": 1}, "unified": {"steps": 2}}
    return train_quietly(tiny_config(folder, components, latents, **changes)).parent


def going_on(finished: Path, folder: Path | str = "unused", **changes: Any) -> RunConfig:
    places = {"output_dir": str(folder), "mixture": str(finished), "threads": 1}
    return check_config({**places, **STAGES, **changes})


@pytest.mark.slow
def test_without_a_step_the_mixture_is_as_it_was(finished: Path, run_training: RunTraining, tmp_path: Path) -> None:
    model = run_training(going_on(finished, tmp_path / "second"))
    for file in (f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}", "alignment.safetensors"):
        before, after = load_file(finished / "model" / file), load_file(model / file)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_goes_on_from_it_and_resumes(
    finished: Path, run_training: RunTraining, latents: str, tmp_path: Path
) -> None:
    stages = {"unified": {**STAGES["unified"], "steps": 2}}
    config = going_on(finished, tmp_path / "second", cache_dir=latents, **stages)
    model = run_training(config)
    transformer = TagMoEPipeline.from_pretrained(model).transformer.config
    assert [transformer[name] for name in ("num_moe_blocks", "num_experts", "top_k", "gate")] == [2, 3, 2, "linear"]
    lines = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines if "flow" in line] == [("unified", 1), ("unified", 2)]
    assert run_training(config, resume=True) == model


def test_settings_are_read_from_it(finished: Path) -> None:
    config = with_mixture(going_on(finished))
    assert config.moe is not None
    assert (config.moe.num_experts, config.moe.gate, config.transformer.num_layers) == (3, "linear", 2)
    assert (config.loss.semantic_dim, config.loss.head_hidden, config.loss.head_layers) == (20, 12, 3)
    assert config.components == str(finished / "model")
    agreeing = going_on(finished, moe={"num_experts": 3, "gate_input": "modulated"}, components="elsewhere")
    assert with_mixture(agreeing).components == "elsewhere"


def test_what_contradicts_it_is_refused_by_name(finished: Path) -> None:
    wrong = going_on(
        finished,
        moe={"num_experts": 4, "top_k": 1, "mode": "plain", "gate_input": "normed"},
        loss={"head_hidden": 99, "signature": "by-layer"},
        transformer={"num_layers": 5},
    )
    with pytest.raises(ConfigError) as refused:
        with_mixture(wrong)
    for part in (
        "'moe.num_experts' is 4",
        "has 3",
        "'moe.top_k'",
        "'moe.mode' is plain",
        "'moe.gate_input' is",
        "'loss.head_hidden' is 99",
        "'loss.signature' is",
        "'transformer.num_layers'",
    ):
        assert part in str(refused.value)
    for changes, part in (
        ({"moe": None}, "'moe' is null"),
        ({"dense": "other"}, "'dense' names a base, 'other'"),
        ({"base": {"steps": 3}}, "'base.steps' is 3"),
        ({"components": None}, "'components' is null"),
        ({"moe": {"noise": 0.1}}, "'moe.noise' is 0.1"),
        ({"moe": {"drop": 0.5}}, "'moe.drop' is 0.5"),
        ({"moe": None, "wide": {"num_blocks": 1}}, "'moe' is null"),
    ):
        with pytest.raises(ConfigError, match=part):
            going_on(finished, **changes)
    with pytest.raises(MissingError, match="'mixture' names"):
        with_mixture(going_on(finished / "none"))


@pytest.mark.slow
def test_components_that_do_not_fit_are_refused(finished: Path, run_training: RunTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'components' names parts for a transformer whose joint_attention_dim"):
        run_training(going_on(finished, tmp_path / "second", components="packaged"))


def test_a_dense_model_is_no_mixture(components: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a dense model; name it by the setting 'dense'"):
        with_mixture(check_config({"output_dir": str(tmp_path), "mixture": components, **STAGES}))


@pytest.mark.slow
def test_the_folder_of_a_run_may_be_the_base(
    config: Make, run_training: RunTraining, components: str, tmp_path: Path
) -> None:
    run = tmp_path / "base"
    run.mkdir()
    (run / "model").symlink_to(components)
    places = {"dense": str(run), "components": str(run)}
    assert run_training(config("next", **places, base={"steps": 0}, unified={"steps": 1})).is_dir()


def test_without_a_terminal_a_line_says_how_far_it_is(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    out = StringIO()
    train(config(base={"steps": 3}, unified={"steps": 4}), validator=lambda *_: {}, console=Console(file=out))
    lines = [line for line in out.getvalue().splitlines() if ": step " in line]
    assert len(lines) == 5
    form = r"unified: step 2 of 4, flow \d.*, learning rate [\d.e-]+, [\d.e+]+ steps/s, "
    form += r"[\d.e+]+ samples/s, \d+k? tokens/s, load \d+ % to \d+ %, \d+ s left"
    assert re.fullmatch(form, lines[3])


def test_a_dense_model_of_other_latents_is_named_before_a_folder_is_made(
    config: Callable[..., RunConfig], run_training: Callable[..., Path], components: str
) -> None:
    run = config(start=components, components="packaged", base={"steps": 0}, unified={"steps": 1})
    with pytest.raises(ConfigError, match=r"whose in_channels is 16, but this run needs 64; name a dense model"):
        run_training(run)
    assert not Path(run.output_dir).exists()
