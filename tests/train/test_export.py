"""Exports of a run: the same pictures, the same tensors, names that other tools read, and a card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders import QwenImageLoraLoaderMixin
from safetensors.torch import load_file

from tagmoe.cli import run as tagmoe
from tagmoe.config import RunConfig
from tagmoe.errors import MissingError, UsageError
from tagmoe.model.lora_file import read_lora
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.export import export

Make = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def folder(whole: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "folder"
    export(Path(whole.output_dir), "diffusers", target)
    return target


def picture(folder: Path) -> np.ndarray:
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32)
    return np.asarray(pipeline("a red circle", num_inference_steps=1, seed=3, height=64, width=64).images[0])


def test_the_folder_makes_the_same_picture_to_the_bit(whole: RunConfig, folder: Path) -> None:
    assert np.array_equal(picture(folder), picture(Path(whole.output_dir) / "model"))


def test_the_single_file_reads_back_equal(whole: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = Path(whole.output_dir), tmp_path / "single"
    command = ["export", str(run), "--format", "safetensors", "-o", str(out), "--json"]
    assert tagmoe(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["output"], facts["format"]) == (str(out), "safetensors")
    assert facts["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert tagmoe(command) == 2
    assert "--force" in capsys.readouterr().err
    assert tagmoe(["export", str(run), "-o", str(run / "inside")]) == 2
    assert "lie in one another" in capsys.readouterr().err
    before = load_file(run / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "single" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "single" / "config.json").read_text())
    assert config["num_moe_blocks"] == 1


def test_the_card_says_data_tags_seed_and_versions(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: tagmoe" in card
    for part in ("- seed: 0", "TagWorld", "Apache-2.0", "image generation", f"torch {torch.__version__.split('+')[0]}"):
        assert part in card.replace("\\", "")


@pytest.mark.parametrize("alpha", [4, 8])
def test_a_lora_is_read_by_diffusers_in_the_names_of_each_tool(alpha: int, tmp_path: Path) -> None:
    """Of a made run: what diffusers' own loader makes of both files is one and the same update."""
    from safetensors.torch import save_file

    run = tmp_path / "run"
    (run / "lora").mkdir(parents=True)
    (run / "config.resolved.yaml").write_text("output_dir: run\nparameters: lora\nseed: 7\nunified: {steps: 2}\n")
    torch.manual_seed(0)
    layers = (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.1.attn.to_out.0",
        "transformer_blocks.1.img_mlp.net.2",
    )
    made: dict[str, Any] = {}
    for layer in layers:
        made[f"transformer.{layer}.lora_A.weight"] = torch.randn(4, 6)
        made[f"transformer.{layer}.lora_B.weight"] = torch.randn(5, 4)
    header = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": alpha})}
    save_file(made, run / "lora" / "pytorch_lora_weights.safetensors", metadata=header)
    export(run, "lora", tmp_path / "out")
    for file in ("pytorch_lora_weights.safetensors", "kohya.safetensors"):
        read = QwenImageLoraLoaderMixin.lora_state_dict(tmp_path / "out", weight_name=file)
        own = read_lora(tmp_path / "out" / file, layers).layers
        for layer in layers:
            update = made[f"transformer.{layer}.lora_B.weight"] @ made[f"transformer.{layer}.lora_A.weight"] * alpha / 4
            down, up = (read[f"transformer.{layer}.lora_{side}.weight"] for side in "AB")
            torch.testing.assert_close(up @ down, update)
            torch.testing.assert_close(own[layer].strength * own[layer].up @ own[layer].down, update)
    kohya = load_file(tmp_path / "out" / "kohya.safetensors")
    assert float(kohya["lora_unet_transformer_blocks_0_attn_to_q.alpha"]) == alpha


def test_what_a_run_does_not_have_is_refused(whole: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has trained no LoRA; give --format diffusers"):
        export(Path(whole.output_dir), "lora", tmp_path / "out")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.yaml").write_text("output_dir: run\nseed: 7\n")
    with pytest.raises(MissingError, match=r"no model yet; finish it"):
        export(run, "safetensors", tmp_path / "out")
    (run / "config.resolved.yaml").write_text("output_dir: run\nparameters: lora\n")
    with pytest.raises(MissingError, match="no LoRA yet"):
        export(run, "lora", tmp_path / "out")
