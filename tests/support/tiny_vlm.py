"""A tiny random Qwen2.5-VL that can be asked: model, tokenizer with a chat template, and a folder of both."""

from __future__ import annotations

import io
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


def tiny_tokenizer() -> Any:
    """Byte-level BPE of 320 tokens with Qwen's special tokens and a chat template."""
    from tagmoe.recipes.full_path.tiny_vlm import tiny_tokenizer

    return tiny_tokenizer(TEXTS)


def tiny_model(tokenizer: Any, *, seed: int = 0) -> Any:
    """A random Qwen2.5-VL of 32 channels, a patch of 14 pixels and 2x2 patches a token."""
    from tagmoe.recipes.full_path.tiny_vlm import tiny_model

    return tiny_model(tokenizer, seed=seed)


def tiny_vlm(*, seed: int = 0, **options: Any) -> Any:
    """A LocalVLM of random weights."""
    from tagmoe.vlm.local import LocalVLM

    tokenizer = tiny_tokenizer()
    return LocalVLM(tiny_model(tokenizer, seed=seed), tokenizer, name="tiny", **options)


def save_tiny_vlm(folder: Path, *, vlm: Any = None, without_videos: bool = False) -> Path:
    """A folder as a Qwen2.5-VL of a hub. vlm: a LocalVLM, by default `tiny_vlm()`."""
    from tagmoe.recipes.full_path.tiny_vlm import save_tiny_vlm

    return save_tiny_vlm(folder, vlm or tiny_vlm(), without_videos=without_videos)


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
    from tagmoe.recipes.full_path.tiny_vlm import teach

    teach(vlm, lessons, most_steps=most_steps)
