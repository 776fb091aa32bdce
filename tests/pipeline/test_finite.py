"""Numbers that are not finite are refused: in weights when they are loaded, and in a result before it is a picture."""

from __future__ import annotations

import math
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_model import build_pipeline

from tagmoe.errors import CheckpointError, TagMoEError, UsageError
from tagmoe.model.loading import check_finite
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.pipeline import TagMoEPipeline


@pytest.fixture(scope="module")
def saved(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder. Copy it, do not change it."""
    folder = tmp_path_factory.mktemp("finite") / "model"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("transformer", "transformer_blocks.3.img_mlp.gate.proj_out.weight"),
        ("transformer", "transformer_blocks.2.img_mlp.experts.1.net.2.bias"),
        ("vae", "decoder.conv_in.bias"),
        ("text_encoder", "model.language_model.norm.weight"),
    ],
)
@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(
    saved: Path, tiny_pipeline: Any, tmp_path: Path, part: str, weight: str, number: float
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    module = deepcopy(getattr(tiny_pipeline, part))
    with torch.no_grad():
        module.get_parameter(weight).view(-1)[-1] = number
    module.save_pretrained(folder / part)
    with pytest.raises(CheckpointError, match=f"weight '{weight}' of .*{part} holds numbers that are not finite"):
        TagMoEPipeline.from_pretrained(folder)


def test_half_precision_that_overflows_makes_no_picture() -> None:
    pipe = build_pipeline()
    with torch.no_grad():
        pipe.transformer.proj_out.bias.fill_(math.inf)
    for kind in ("pil", "latent"):
        with pytest.raises(TagMoEError, match="not finite"):
            pipe("remove the green triangle", seed=1, output_type=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_position_and_precision_is_seen(dtype: torch.dtype) -> None:
    module = torch.nn.Linear(7, 5, dtype=dtype)
    check_finite(module, "it")
    for index in range(35):
        with torch.no_grad():
            kept = module.weight.view(-1)[index].clone()
            module.weight.view(-1)[index] = math.nan
        with pytest.raises(CheckpointError):
            check_finite(module, "it")
        with torch.no_grad():
            module.weight.view(-1)[index] = kept


def test_a_single_file_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    for source in (tmp_path / "scaled_fp8.safetensors", {}):
        with pytest.raises(UsageError, match="upcycle the folder"):
            TagMoETransformer2DModel.from_single_file(source)


@pytest.mark.parametrize(
    "options",
    [
        {"true_cfg_scale": math.nan},
        {"latents": torch.full((1, 64, 16), math.nan)},
        {"prompt": None, "prompt_embeds": torch.full((1, 4, 32), math.nan)},
        {"negative_prompt_embeds": torch.full((1, 4, 32), math.inf)},
        {"reference_area": math.nan},
        {"num_inference_steps": math.inf},
    ],
)
def test_every_numeric_argument_is_checked(tiny_pipeline: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tiny_pipeline(**({"prompt": "remove the green triangle", "seed": 1, "true_cfg_scale": 4.0} | options))
