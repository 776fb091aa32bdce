"""diffusers' older mixin of pipeline tests (`test_pipelines_common`), on its pipeline from text and on ours."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline
from peers.checkout import load_tests
from peers.parts import our_parts, stock_parts

from tagmoe.pipeline.pipeline import TagMoEPipeline

# Its imports need them, and `make test-peers` installs them.
pytest.importorskip("parameterized")
pytest.importorskip("requests_mock")
common = load_tests("pipelines.test_pipelines_common")
parameters = load_tests("pipelines.pipeline_params")


class Common(common.PipelineTesterMixin):
    params = parameters.TEXT_TO_IMAGE_PARAMS - {"cross_attention_kwargs"}
    batch_params = parameters.TEXT_TO_IMAGE_BATCH_PARAMS
    image_params = parameters.TEXT_TO_IMAGE_IMAGE_PARAMS
    image_latents_params = parameters.TEXT_TO_IMAGE_IMAGE_PARAMS
    required_optional_params = frozenset(
        [
            "num_inference_steps",
            "generator",
            "latents",
            "return_dict",
            "callback_on_step_end",
            "callback_on_step_end_tensor_inputs",
        ]
    )
    supports_dduf = False
    test_xformers_attention = False
    test_layerwise_casting = True
    test_group_offloading = True

    def get_dummy_inputs(self, device: Any, seed: int = 0) -> dict[str, Any]:
        return {
            "prompt": "make a circle",
            "negative_prompt": "bad quality",
            "generator": torch.Generator("cpu").manual_seed(seed),
            "num_inference_steps": 2,
            "true_cfg_scale": 1.0,
            "height": 32,
            "width": 32,
            "max_sequence_length": 16,
            "output_type": "pt",
        }


class TestStockCommon(Common, unittest.TestCase):
    side = "stock"
    pipeline_class = QwenImagePipeline

    def get_dummy_components(self) -> dict[str, Any]:
        return stock_parts()


class TestOursCommon(Common, unittest.TestCase):
    side = "ours"
    pipeline_class = TagMoEPipeline

    def get_dummy_components(self) -> dict[str, Any]:
        return our_parts()
