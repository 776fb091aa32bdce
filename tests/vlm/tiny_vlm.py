"""A tiny random Qwen2.5-VL that can be asked: model, tokenizer with a chat template, and a folder of both."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TEXTS = (
    "remove the red circle",
    "make the sky blue",
    '{"tags": ["object_removal", "style"], "yes": true, "no": false}',
)
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The shape of Qwen2.5-VL's own template: default system text, contents as text or as parts."""


def tiny_tokenizer() -> Any:
    """Byte-level BPE of 320 tokens with Qwen's special tokens and a chat template."""
    from tagmoe.components import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, vocab_size=320)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(tokenizer: Any, *, seed: int = 0) -> Any:
    """A random Qwen2.5-VL of 32 channels, a patch of 14 pixels and 2x2 patches a token."""
    from tagmoe.components import make_text_encoder

    return make_text_encoder(
        tokenizer, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=64, seed=seed
    )


def tiny_vlm(*, seed: int = 0, **options: Any) -> Any:
    """A LocalVLM of random weights."""
    from tagmoe.vlm.local import LocalVLM

    tokenizer = tiny_tokenizer()
    return LocalVLM(tiny_model(tokenizer, seed=seed), tokenizer, name="tiny", **options)


def save_tiny_vlm(folder: Path, *, seed: int = 0) -> Path:
    """A folder as a Qwen2.5-VL of a hub: config, safetensors, tokenizer, chat template, image processor."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64).save_pretrained(folder)
    return folder


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A picture of noise as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
