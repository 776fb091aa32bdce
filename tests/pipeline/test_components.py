"""Tiny parts are the real classes, save and reload exactly, and a folder that would load in part is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.tiny_model import tiny_components
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.pipeline.components import (
    SPECIAL_TOKENS,
    make_autoencoder,
    make_text_encoder,
    train_tokenizer,
)
from tagmoe.pipeline.folder import check_model_folder
from tagmoe.pipeline.single_frame import fast_single_frame

TEXTS = ["add a red circle", "make the person wear sunglasses", "remove the red circle"]
TOKENIZER = train_tokenizer(TEXTS, 300)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_string_survives_the_tokenizer(text: str) -> None:
    import unicodedata

    ids = TOKENIZER(text).input_ids
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


def test_the_tokenizer_learned_merges_and_keeps_special_tokens_last() -> None:
    assert len(TOKENIZER) <= 300
    assert len(TOKENIZER("make the person wear sunglasses").input_ids) < 12
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(TOKENIZER) - 8, len(TOKENIZER)))
    assert len(TOKENIZER("<|im_start|>a<|im_end|>").input_ids) == 3
    assert TOKENIZER.pad_token == "<|endoftext|>"


def test_training_the_tokenizer_is_deterministic_and_reloads(tmp_path: Path) -> None:
    assert train_tokenizer(TEXTS, 300).get_vocab() == TOKENIZER.get_vocab()
    TOKENIZER.save_pretrained(tmp_path)
    again = Qwen2Tokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>add sunglasses, caf\u00e9<|im_end|>"
    assert again(text).input_ids == TOKENIZER(text).input_ids
    assert again.get_vocab() == TOKENIZER.get_vocab()


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 264"):
        train_tokenizer(TEXTS, 263)
    with pytest.raises(UsageError, match="head size"):
        make_text_encoder(TOKENIZER, hidden_size=30, num_heads=4)


def test_the_same_seed_gives_the_same_parts_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = (make_autoencoder(base_dim=8, z_dim=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_single_frame_path_is_exact(dtype: torch.dtype) -> None:
    stock = make_autoencoder(base_dim=8, z_dim=4).to(dtype)
    fast = fast_single_frame(copy.deepcopy(stock))
    assert fast.state_dict().keys() == stock.state_dict().keys()
    pixels = torch.rand(2, 3, 1, 32, 48, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    with torch.no_grad():
        latents = stock.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(fast.encode(pixels).latent_dist.mode(), latents, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(fast.decode(latents).sample, stock.decode(latents).sample, atol=tolerance, rtol=0.05)


def test_the_single_frame_path_leaves_videos_and_gradients_alone() -> None:
    stock = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    fast = fast_single_frame(copy.deepcopy(stock))
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast(video).sample, stock(video).sample, atol=1e-5, rtol=1e-4)
    for vae in (stock, fast):
        vae(video[:, :, :1]).sample.square().mean().backward()
    for (name, a), (_, b) in zip(stock.named_parameters(), fast.named_parameters(), strict=True):
        ours = torch.zeros_like(b) if b.grad is None else b.grad
        theirs = torch.zeros_like(a) if a.grad is None else a.grad
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the five parts, none of a tagmoe class, laid out as a pipeline."""
    folder = tmp_path_factory.mktemp("model")
    index: dict[str, Any] = {"_class_name": "TagMoEPipeline", "processor": [None, None], "default_size": 64}
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    for name, part in (tiny_components(TEXTS) | {"transformer": transformer}).items():
        part.save_pretrained(folder / name)
        library = "transformers" if name in ("tokenizer", "text_encoder") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_whole_folder_passes_and_stock_classes_read_it(folder: Path) -> None:
    check_model_folder(folder)
    vae = AutoencoderKLQwenImage.from_pretrained(folder / "vae")
    assert vae.spatial_compression_ratio == 4
    assert isinstance(
        FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"), FlowMatchEulerDiscreteScheduler
    )
    text_encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder")
    assert text_encoder.config.image_token_id < text_encoder.config.text_config.vocab_size


WEIGHTS = ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


@pytest.mark.parametrize(
    "name",
    [*WEIGHTS, "model_index.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
     "tokenizer/tokenizer.json", "vae", "tokenizer"],
)  # fmt: skip
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=name.rsplit("/", maxsplit=1)[-1]):
        check_model_folder(folder)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("content", ["empty", "cut", "garbage"])
def test_a_damaged_weight_file_is_named(folder: Path, name: str, content: str) -> None:
    path = folder / name
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "garbage": b"\xff" * 64 + data[64:]}[content])
    with pytest.raises(CheckpointError, match=path.name):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json", "tokenizer/tokenizer.json"])
def test_a_damaged_json_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text('{"half": ')
    with pytest.raises(CheckpointError, match=Path(name).name):
        check_model_folder(folder)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("change", ["missing", "unknown", "of another shape"])
def test_weights_that_do_not_fit_their_config_are_listed(folder: Path, name: str, change: str) -> None:
    weights = load_file(folder / name)
    key = sorted(key for key in weights if key.endswith("weight"))[3]
    if change == "missing":
        del weights[key]
    elif change == "unknown":
        weights["surplus.weight"] = torch.zeros(1)
    else:
        weights[key] = torch.zeros(3, 5)
    save_file(weights, folder / name, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=change):
        check_model_folder(folder)
    check_model_folder(folder, given=["vae", "text_encoder"])


def test_a_missing_shard_is_named(folder: Path) -> None:
    vae = AutoencoderKLQwenImage.from_pretrained(folder / "vae")
    (folder / WEIGHTS[0]).unlink()
    vae.save_pretrained(folder / "vae", max_shard_size="200KB")
    check_model_folder(folder)
    shard = sorted((folder / "vae").glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        check_model_folder(folder)


def test_no_folder_is_missing_and_an_unknown_class_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no model folder"):
        check_model_folder(tmp_path / "nowhere")
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"] = ["diffusers", "NoSuchAutoencoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="NoSuchAutoencoder"):
        check_model_folder(folder)
