"""A tiny random Qwen2.5-VL that can be asked and taught: model, tokenizer with a chat template, a folder of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tagmoe.pipeline.components import make_text_encoder, train_tokenizer
from tagmoe.vlm.local import LocalVLM
from tagmoe.vlm.question import Question

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The shape of Qwen2.5-VL's own template: default system text, contents as text or as parts."""
LEARNED = 3e-3
"""Loss of a token at which an answer is known by heart."""


def tiny_tokenizer(texts: Iterable[str], vocab_size: int = 320) -> Any:
    """Byte-level BPE with Qwen's special tokens and a chat template, trained on `texts`."""
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(tokenizer: Any, *, seed: int = 0) -> Any:
    """A random Qwen2.5-VL of 32 channels, a patch of 14 pixels and 2x2 patches a token."""
    return make_text_encoder(
        tokenizer, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=64, seed=seed
    )


def teach(vlm: LocalVLM, lessons: Sequence[tuple[Question, str]], *, most_steps: int = 400) -> None:
    """Train the model of a LocalVLM until it answers each question of `lessons` with its text (seconds for a few).

    Raises RuntimeError if it has not learned them after `most_steps`.
    """
    model = vlm._model
    end = vlm._tokenizer.convert_tokens_to_ids("<|im_end|>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses: list[float] = []
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
        if max(losses) < LEARNED:
            return
        optimizer.step()
    raise RuntimeError(f"The tiny model did not learn its lessons: {losses}.")


def save_tiny_vlm(folder: Path, vlm: LocalVLM, *, without_videos: bool = False) -> Path:
    """A folder as a Qwen2.5-VL of a hub: config, safetensors, tokenizer, chat template, image processor.

    without_videos: the folder names a processor of transformers that treats pictures as Qwen's own does and has no
    videos, as only for those torchvision is needed.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vlm._model.save_pretrained(folder)
    vlm._tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64).save_pretrained(folder)
    if without_videos:
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "PaddleOCRVLProcessor"}))
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text()) | {"model_specific_special_tokens": {"image_token": "<|image_pad|>"}}
        file.write_text(json.dumps(config))
    return folder
