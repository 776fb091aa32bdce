"""Folders: what is saved is loaded, bit for bit or not at all; LoRA trains, saves and reloads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.model.transformer import TagMoETransformer2DModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(build, tmp_path: Path) -> Path:
    build(top_k=2, gate_hidden=5).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow_but_first
@pytest.mark.parametrize("shard", ["10GB", "60KB"])
@pytest.mark.parametrize("settings", [{}, {"gate": "linear", "expert_bias": False}, {"num_moe_blocks": 0}])
def test_round_trip_is_bit_equal(build, inputs, tmp_path, settings, shard):
    model = build(**settings)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    again = TagMoETransformer2DModel.from_pretrained(tmp_path)
    assert public(again.config) == public(model.config)
    assert torch.equal(again(**inputs).sample, model(**inputs).sample)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "60KB")


def public(config: dict) -> dict:
    """The settings as JSON keeps them, without diffusers' own notes."""
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))


def test_subfolder_dtype_and_info_are_diffusers_own(folder):
    model, info = TagMoETransformer2DModel.from_pretrained(
        folder.parent, subfolder="model", dtype=torch.bfloat16, output_loading_info=True
    )
    assert model.dtype == torch.bfloat16
    assert info["missing_keys"] == []


@pytest.mark.slow
def test_a_dense_diffusers_folder_loads_as_a_model_without_mixtures(dense, inputs, tmp_path):
    dense.save_pretrained(tmp_path)
    assert torch.equal(TagMoETransformer2DModel.from_pretrained(tmp_path)(**inputs).sample, dense(**inputs).sample)


def test_missing_and_unexpected_keys_are_listed(folder):
    weights = load_file(folder / WEIGHTS)
    value = weights.pop("transformer_blocks.3.img_mlp.experts.1.net.2.bias")
    weights["transformer_blocks.3.img_mlp.experts.9.net.2.bias"] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        TagMoETransformer2DModel.from_pretrained(folder)
    assert "missing: transformer_blocks.3.img_mlp.experts.1.net.2.bias" in str(caught.value)
    assert "unexpected: transformer_blocks.3.img_mlp.experts.9.net.2.bias" in str(caught.value)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"gate_hidden": 6}))
    with pytest.raises(CheckpointError, match=r"do not fit its config: .*gate\.proj_in.*expected shape"):
        TagMoETransformer2DModel.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["cut", "no header", "empty"])
def test_a_damaged_weight_file_is_named(folder, damage):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes({"cut": data[: len(data) // 2], "no header": b"x" * 100, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is damaged") as caught:
        TagMoETransformer2DModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_text("{not json")
    with pytest.raises(CheckpointError, match="model"):
        TagMoETransformer2DModel.from_pretrained(folder)


def test_weights_that_are_gone_are_refused(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors"):
        TagMoETransformer2DModel.from_pretrained(folder)


def test_a_missing_shard_is_refused(build, tmp_path):
    build().save_pretrained(tmp_path, max_shard_size="60KB")
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match="00001-of"):
        TagMoETransformer2DModel.from_pretrained(tmp_path)


def test_what_is_not_there_is_missing(folder, tmp_path):
    with pytest.raises(MissingError, match=r"There is no model folder.*hf download"):
        TagMoETransformer2DModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingError, match=r"no config\.json"):
        TagMoETransformer2DModel.from_pretrained(folder.parent)
    with pytest.raises(MissingError, match=r"no config\.json"):
        TagMoETransformer2DModel.from_pretrained(folder, subfolder="transformer")


@pytest.mark.parametrize("targets", ["to_q", r".*img_mlp\.experts\..*(proj|net\.2)"])
def test_lora_trains_saves_and_reloads(build, inputs, tmp_path, targets):
    model = build()
    base = model(**inputs).sample
    model.add_adapter(LoraConfig(r=2, target_modules=[targets] if targets == "to_q" else targets))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=10.0)
    for _ in range(2):
        model(**inputs).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned = model(**inputs).sample
    assert not torch.allclose(tuned, base)
    model.save_lora_adapter(tmp_path)

    again = build()
    again.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(again(**inputs).sample, tuned)


def test_a_pickle_is_never_read(build, folder):
    """A file of another name must not open the way to diffusers' fallback, the .bin file."""
    torch.save(build(top_k=2, gate_hidden=5).state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    for options in ({}, {"use_safetensors": False}, {"use_safetensors": None}):
        with pytest.raises(CheckpointError, match="safetensors"):
            TagMoETransformer2DModel.from_pretrained(folder, **options)
