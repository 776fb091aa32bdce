"""A tiny random Qwen2.5-VL that can be asked: model, tokenizer with a chat template, and a folder of both."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
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
    from tagmoe.pipeline.components import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, vocab_size=320)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(tokenizer: Any, *, seed: int = 0) -> Any:
    """A random Qwen2.5-VL of 32 channels, a patch of 14 pixels and 2x2 patches a token."""
    from tagmoe.pipeline.components import make_text_encoder

    return make_text_encoder(
        tokenizer, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=64, seed=seed
    )


def tiny_vlm(*, seed: int = 0, **options: Any) -> Any:
    """A LocalVLM of random weights."""
    from tagmoe.vlm.local import LocalVLM

    tokenizer = tiny_tokenizer()
    return LocalVLM(tiny_model(tokenizer, seed=seed), tokenizer, name="tiny", **options)


def save_tiny_vlm(folder: Path, *, vlm: Any = None, without_videos: bool = False) -> Path:
    """A folder as a Qwen2.5-VL of a hub: config, safetensors, tokenizer, chat template, image processor.

    vlm: a LocalVLM, by default `tiny_vlm()`. without_videos: the folder names a processor of transformers that treats
    pictures as Qwen's own does and has no videos, as only for those torchvision is needed.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vlm = vlm or tiny_vlm()
    vlm._model.save_pretrained(folder)
    vlm._tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64).save_pretrained(folder)
    if without_videos:
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "PaddleOCRVLProcessor"}))
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text()) | {"model_specific_special_tokens": {"image_token": "<|image_pad|>"}}
        file.write_text(json.dumps(config))
    return folder


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A picture of noise as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def plain_picture(colour: str, width: int = 56, height: int = 56) -> bytes:
    """A picture of one colour as PNG bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def teach(vlm: Any, lessons: Sequence[tuple[Any, str]], *, most_steps: int = 400) -> None:
    """Train the model of a LocalVLM until it answers each question of `lessons` with its text (about 3 s for three)."""
    import torch

    model = vlm._model
    end = vlm._tokenizer.convert_tokens_to_ids("<|im_end|>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(most_steps):
        optimizer.zero_grad()
        losses = []
        for question, answer in lessons:
            prompt = vlm._prompts.make(question)
            words = torch.tensor([[*vlm._prompts.plain(answer), end]])
            pictures = dict(prompt.pictures)
            if pictures:
                kinds = pictures["mm_token_type_ids"]
                pictures["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(words).int()], dim=1)
            labels = torch.cat([torch.full_like(prompt.ids, -100), words], dim=1)
            loss = model(input_ids=torch.cat([prompt.ids, words], dim=1), labels=labels, **pictures).loss
            loss.backward()
            losses.append(loss.item())
        if max(losses) < 3e-3:
            return
        optimizer.step()
    raise AssertionError(f"the tiny model did not learn its lessons: {losses}")
