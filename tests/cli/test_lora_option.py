"""`--lora`: the picture changes, its layers are reported, its strength counts, mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """One layer of attention and one image FFN of a mixture, for the tiny model of these tests."""
    torch.manual_seed(0)
    tensors = {}
    for name, out, into in (("attn.to_v", 32, 32), ("img_mlp.net.2", 32, 128)):
        base = f"transformer.transformer_blocks.3.{name}"
        tensors |= {f"{base}.lora_A.weight": torch.randn(2, into), f"{base}.lora_B.weight": torch.randn(out, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def picture_of(tagmoe: Any, model: Path, out: Path, *options: object) -> tuple[np.ndarray, Any]:
    command = ("generate", "-p", "a red circle", "-o", out, "-m", model, "--seed", 1, "--steps", 2, "--json", *options)
    outcome = tagmoe(*command)
    assert outcome.code == 0, outcome.err
    return np.asarray(Image.open(out)), outcome


def test_a_lora_changes_the_picture_and_is_reported(tagmoe, model, lora, tmp_path) -> None:
    plain, _ = picture_of(tagmoe, model, tmp_path / "plain.png")
    changed, outcome = picture_of(tagmoe, model, tmp_path / "lora.png", "--lora", lora)
    assert not np.array_equal(plain, changed)
    assert "1 layer loaded, 1 broadcast to 4 layers of experts, 0 dropped" in outcome.err
    (report,) = json.loads(outcome.out)["lora"]
    assert (report["loaded"], report["broadcast"], report["experts"], report["dropped"]) == (1, 1, 4, [])
    assert Image.open(tmp_path / "lora.png").text["lora"] == "style.safetensors"
    off, _ = picture_of(tagmoe, model, tmp_path / "off.png", "--lora", lora, "--lora-scale", 0)
    assert np.array_equal(plain, off)


def test_mistakes_with_loras(tagmoe, model, lora, tmp_path) -> None:
    command = ("generate", "-p", "a red circle", "-o", tmp_path / "out.png", "-m", model)
    tagmoe(*command, "--lora-scale", 0.5).refused(2, "--lora-scale is given 1 time and --lora 0 times")
    tagmoe(*command, "--lora", tmp_path / "none.safetensors").refused(3, "none.safetensors")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf"])
def test_a_strength_that_is_no_number_is_refused_before_the_model_is_loaded(tagmoe, model, lora, tmp_path, strength):
    command = ("generate", "-p", "one circle", "-m", model, "-o", tmp_path / "a.png", "--lora", lora)
    tagmoe(*command, "--lora-scale", strength).refused(2, f"--lora-scale is {strength}; give a finite number from")
    assert not (tmp_path / "a.png").exists()


def test_a_lora_given_twice_is_said_once(tagmoe, model, lora, tmp_path) -> None:
    _, outcome = picture_of(tagmoe, model, tmp_path / "a.png", "--lora", lora, "--lora", lora)
    assert outcome.err.count("is given 2 times; their strengths add up") == 1
