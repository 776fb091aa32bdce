"""A saved pipeline is one folder that comes back bit for bit, or an error that names the file."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.utils import logging
from support.tiny_model import build_pipeline

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.pipeline.pipeline import QWEN_IMAGE_TEMPLATE, TagMoEPipeline


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
    assert "processor" not in index


@pytest.mark.slow
def test_a_dtype_and_a_part_can_be_given(saved: tuple[Path, np.ndarray], tiny_pipeline: Any) -> None:
    pipe = TagMoEPipeline.from_pretrained(str(saved[0]), dtype=torch.bfloat16, vae=tiny_pipeline.vae)
    assert pipe.transformer.dtype == torch.bfloat16
    assert pipe.vae is tiny_pipeline.vae


@pytest.mark.slow_but_first
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


@pytest.mark.slow
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


def edited(saved: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the folder with other entries in its model_index.json."""
    shutil.copytree(saved, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vae", ["this", "s"]),
        ("vae", ["module_of_a_test", "Thing"]),
        ("vae", ["diffusers", "QwenImageTransformer2DModel"]),
        ("vae", ["diffusers", "logging"]),
        ("vae", ["diffusers", "NoSuchAutoencoder"]),
        ("vae", ["diffusers", ["AutoencoderKLQwenImage"]]),
        ("vae", ["diffusers", None]),
        ("vae", "diffusers"),
        ("transformer", ["tagmoe", "TagMoEPipeline"]),
        ("text_encoder", ["transformers", "pipeline"]),
        ("tokenizer", ["transformers", "__name__"]),
        ("_class_name", ["evil", "Pipeline"]),
        ("_class_name", None),
        ("known_words", "circle"),
        ("known_words", ["circle", 3]),
        ("default_size", "64"),
        ("default_size", True),
        ("default_steps", 0),
        ("default_steps", 2.5),
        ("default_cfg", "4"),
        ("default_cfg", float("nan")),
        ("prompt_template", "no place"),
        ("prompt_template", None),
        ("max_prompt_tokens", [1]),
    ],
)
def test_the_index_can_only_name_what_belongs_there(
    saved: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    (tmp_path / "module_of_a_test.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = edited(saved[0], tmp_path / "copy", **{name: value})
    (folder / "evil.py").write_text("raise SystemExit('run')")
    imported = set(sys.modules)
    with pytest.raises(CheckpointError, match=r"model_index\.json") as caught:
        TagMoEPipeline.from_pretrained(folder)
    assert (name if name != "vae" or "NoSuch" not in str(value) else "NoSuchAutoencoder") in str(caught.value)
    assert {"this", "module_of_a_test", "evil"}.isdisjoint(set(sys.modules) - imported)


@pytest.mark.slow
def test_an_option_that_is_given_replaces_a_bad_one(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder = edited(saved[0], tmp_path / "copy", default_size="64")
    assert TagMoEPipeline.from_pretrained(folder, default_size=32).config.default_size == 32


@pytest.mark.slow
@pytest.mark.parametrize("processor", [[None, None], ["transformers", "Qwen2VLProcessor"]])
def test_the_processor_of_an_editing_folder_is_skipped_in_silence(
    saved: tuple[Path, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture, processor: Any
) -> None:
    folder = edited(saved[0], tmp_path / "copy", processor=processor)
    logger = logging.get_logger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipe = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32)
    finally:
        logger.removeHandler(caplog.handler)
    assert "processor" not in pipe.components
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []
    pipe.save_pretrained(tmp_path / "again")
    assert "processor" not in json.loads((tmp_path / "again" / "model_index.json").read_text())


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_a_pipeline_never_reads_a_pickle(saved: tuple[Path, np.ndarray], tmp_path: Path, part: str) -> None:
    folder = edited(saved[0], tmp_path / "copy")
    weights = next((folder / part).glob("*.safetensors"))
    weights.rename(weights.with_name("other.safetensors"))
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
        (folder / part / name).write_bytes(b"not even a pickle")
    with pytest.raises(CheckpointError, match=weights.name):
        TagMoEPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_every_part_is_loaded_from_safetensors_only(
    saved: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(cls: Any, folder: Any, **options: Any) -> SimpleNamespace:
        asked.append(options["use_safetensors"])
        return SimpleNamespace(vae=torch.nn.Identity(), text_encoder=torch.nn.Identity())

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(load))
    for options in ({}, {"use_safetensors": False}):
        TagMoEPipeline.from_pretrained(saved[0], **options)
    assert asked == [True, True]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("vae/config.json", '{"base_dim": "many"}', "config.json"),
        ("vae/config.json", "[1, 2]", "config.json"),
        ("model_index.json", "3", "no JSON object"),
        ("scheduler/scheduler_config.json", "[" * 100_000, "scheduler_config.json"),
    ],
)
def test_json_of_another_shape_is_named(
    saved: tuple[Path, np.ndarray], tmp_path: Path, name: str, content: str, part: str
) -> None:
    folder = edited(saved[0], tmp_path / "copy")
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=part):
        TagMoEPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_diffusers_own_loader_opens_a_saved_folder(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    opened = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened) is TagMoEPipeline
    ours = TagMoEPipeline.from_pretrained(tmp_path)
    first, second = (pipe("remove the triangle", seed=1, output_type="latent").images for pipe in (opened, ours))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_a_saved_folder_says_how_to_open_it_and_keeps_a_card_of_its_own(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    pipeline.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    config = pipeline.transformer.config
    assert f"TAG-MoE with {config.num_experts} experts in {config.num_moe_blocks} blocks" in card
    assert "TagMoEPipeline.from_pretrained" in card
    assert "tagmoe edit" in card
    (tmp_path / "README.md").write_text("mine")
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
