"""A model folder in the adapters of SGLang-diffusion and vLLM-Omni, by their calls of diffusers; neither runs here.

Their calls, read on 2026-12-01: sglang 0.5.23, `multimodal_gen/runtime/pipelines/diffusers_pipeline.py`; vllm-omni
0.30.0, `diffusion/models/diffusers_adapter/pipeline_diffusers_adapter.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from support.tiny_model import TEXTS, build_pipeline

from tagmoe import TagMoEPipeline

# Both engines still use the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

PICTURE = Image.effect_noise((64, 64), 60).convert("RGB")
LINE = "from tagmoe import TagMoEPipeline\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the one line that `docs/serve.md` has the user write."""
    folder: Path = tmp_path_factory.mktemp("engines") / "exported"
    build_pipeline().save_pretrained(folder)
    (folder / "pipeline.py").write_text(LINE)
    return folder


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """diffusers copies a pipeline.py before it imports it; not into the home of who runs the tests."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def load(folder: Path, **options: Any) -> Any:
    return DiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32, **options)


def test_the_line_lets_the_adapters_find_the_class_and_nothing_less_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang tries without it, reads the error's words, and tries again with the folder's own code, trusted."""
    # tagmoe tells diffusers of its class, but no engine imports tagmoe.
    for module in (diffusers, diffusers.pipelines):
        monkeypatch.delattr(module, "TagMoEPipeline", raising=False)
    with pytest.raises(AttributeError, match="has no attribute TagMoEPipeline"):
        load(folder, trust_remote_code=False)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load(folder, custom_pipeline=str(folder), trust_remote_code=False)
    pipeline = load(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert type(pipeline) is TagMoEPipeline
    own = TagMoEPipeline.from_pretrained(folder)
    asked: dict[str, Any] = {"prompt": TEXTS[1], "num_inference_steps": 2, "height": 64, "width": 64}
    found = np.asarray(own(**asked, image=PICTURE, seed=5).images[0])

    generator = torch.Generator().manual_seed(5)
    sglang = pipeline(**asked, image=PICTURE, guidance_scale=7.5, generator=generator, output_type="pt").images
    assert sglang.shape == (1, 3, 64, 64)
    assert np.abs(sglang[0].permute(1, 2, 0).numpy() * 255 - found).max() <= 0.51

    generator = torch.Generator().manual_seed(5)
    vllm = pipeline(
        **asked, image=[PICTURE], seed=5, generator=generator, num_images_per_prompt=1, output_type="pil"
    ).images[0]
    assert (np.asarray(vllm) == found).all()
