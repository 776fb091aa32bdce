"""A saved pipeline is one folder that comes back bit for bit, or an error that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_pipeline
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.pipeline import QWEN_IMAGE_TEMPLATE, TagMoEPipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    pipe = build_pipeline(known_words=["remove", "the", "circle"], default_cfg=2.5)
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder, np.asarray(pipe("remove the circle", seed=3).images[0])


def test_the_folder_comes_back_bit_for_bit(saved: tuple[Path, np.ndarray]) -> None:
    folder, wanted = saved
    pipe = TagMoEPipeline.from_pretrained(folder)
    assert pipe.config.known_words == ["circle", "remove", "the"]
    assert (pipe.config.default_cfg, pipe.config.default_size, pipe.size_multiple) == (2.5, 64, 8)
    assert np.array_equal(np.asarray(pipe("remove the circle", seed=3).images[0]), wanted)


def test_the_index_names_stock_classes_and_ours(saved: tuple[Path, np.ndarray]) -> None:
    index = json.loads((saved[0] / "model_index.json").read_text())
    assert index["transformer"] == ["tagmoe", "TagMoETransformer2DModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKLQwenImage"]
    assert index["text_encoder"] == ["transformers", "Qwen2_5_VLForConditionalGeneration"]
    assert index["processor"] == [None, None]


def test_a_dtype_and_a_part_can_be_given(saved: tuple[Path, np.ndarray], tiny_pipeline: Any) -> None:
    pipe = TagMoEPipeline.from_pretrained(str(saved[0]), dtype=torch.bfloat16, vae=tiny_pipeline.vae)
    assert pipe.transformer.dtype == torch.bfloat16
    assert pipe.vae is tiny_pipeline.vae


@pytest.mark.parametrize(
    "name",
    ["transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
     "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "transformer/config.json"],
)  # fmt: skip
def test_an_incomplete_or_cut_folder_names_the_file(saved: tuple[Path, np.ndarray], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "copy"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=Path(name).name):
        TagMoEPipeline.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=Path(name).name):
        TagMoEPipeline.from_pretrained(folder)


def test_a_folder_of_the_stock_pipeline_loads(tiny_pipeline: Any, tmp_path: Path) -> None:
    stock = QwenImagePipeline(
        scheduler=tiny_pipeline.scheduler,
        vae=tiny_pipeline.vae,
        text_encoder=tiny_pipeline.text_encoder,
        tokenizer=tiny_pipeline.tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip
    stock.save_pretrained(tmp_path)
    pipe = TagMoEPipeline.from_pretrained(tmp_path, default_size=64)
    assert pipe.config.prompt_template == QWEN_IMAGE_TEMPLATE
    assert pipe("remove the circle", seed=0, num_inference_steps=1).images[0].size == (64, 64)


def test_no_folder_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "none", "somebody/some-model"):
        with pytest.raises(MissingError, match="hf download"):
            TagMoEPipeline.from_pretrained(path)
