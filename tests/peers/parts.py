"""The components that diffusers' tests ask for. Their tokenizer comes from the hub; here one is trained in place."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from support.tiny_model import TEXTS
from transformers import PaddleOCRVLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.components import make_text_encoder, train_tokenizer

TRANSFORMER: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 16,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 4, 4),
}


def stock_parts() -> dict[str, Any]:
    """The parts of a tiny QwenImagePipeline, of the sizes in diffusers' tests."""
    tokenizer = train_tokenizer(TEXTS, 320)
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(**TRANSFORMER)
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": make_text_encoder(
            tokenizer, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=2, intermediate_size=16
        ),
        "tokenizer": tokenizer,
    }


def our_parts() -> dict[str, Any]:
    """The same with a mixture in the last block."""
    torch.manual_seed(0)
    return stock_parts() | {"transformer": TagMoETransformer2DModel(**TRANSFORMER, num_moe_blocks=1)}


def picture_processor(tokenizer: Any) -> Any:
    """A processor that treats pictures as Qwen2-VL's does. That one also needs torchvision, for videos."""
    tokenizer._set_model_specific_special_tokens({"image_token": "<|image_pad|>"})
    pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64)
    return PaddleOCRVLProcessor(image_processor=pictures, tokenizer=tokenizer)
