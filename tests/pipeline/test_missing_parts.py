"""A pipeline works as far as its parts go: prompts encoded alone, embeddings drawn alone, and all of it is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_model import build_pipeline

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.pipeline.pipeline import TagMoEPipeline

PROMPT = "add a red circle"
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def tokens(pipeline: Any, *args: Any, **options: Any) -> torch.Tensor:
    return pipeline(*args, **({"seed": 0, "output_type": "latent"} | options)).images


def without(*names: str) -> Any:
    return build_pipeline(**dict.fromkeys(names))


def embeddings(pipeline: Any) -> dict[str, Any]:
    embeds, mask = pipeline.encode_prompt(PROMPT)
    negative, negative_mask = pipeline.encode_prompt(" ")
    return {
        "prompt_embeds": embeds,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": negative,
        "negative_prompt_embeds_mask": negative_mask,
    }


@pytest.mark.slow
def test_prompts_are_encoded_alone_and_embeddings_drawn_alone(tiny_pipeline: Any) -> None:
    given = embeddings(without("transformer", "vae", "scheduler"))
    torch.testing.assert_close(tokens(without("text_encoder", "tokenizer"), **given), tokens(tiny_pipeline, PROMPT))
    alone = {name: given[name] for name in ("prompt_embeds", "prompt_embeds_mask")}
    drawn = tokens(without("text_encoder", "tokenizer"), **alone, true_cfg_scale=1.0)
    torch.testing.assert_close(drawn, tokens(tiny_pipeline, PROMPT, true_cfg_scale=1.0))


def test_an_autoencoder_alone_encodes_and_decodes(tiny_pipeline: Any) -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    alone = without("transformer", "text_encoder", "tokenizer", "scheduler")
    latents = alone.encode_images(pixels)
    assert torch.equal(latents, tiny_pipeline.encode_images(pixels))
    assert torch.equal(alone.decode(latents), tiny_pipeline.decode(latents))


def test_a_part_that_is_put_in_later_counts(tiny_pipeline: Any) -> None:
    pipe = without("vae")
    assert (pipe.vae_scale_factor, pipe.size_multiple) == (8, 16)
    pipe.register_modules(vae=tiny_pipeline.vae)
    assert (pipe.vae_scale_factor, pipe.size_multiple) == (4, 8)
    assert torch.equal(tokens(pipe, PROMPT), tokens(tiny_pipeline, PROMPT))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("missing", "call", "words"),
    [
        ("transformer", {}, "has no transformer"),
        ("scheduler", {}, "has no scheduler"),
        ("vae", {"output_type": "pil"}, 'has no vae; ask for output_type="latent"'),
        ("vae", {"image": torch.zeros(3, 64, 64)}, "has no vae"),
        ("text_encoder", {}, "has no text_encoder; give prompt_embeds"),
        ("tokenizer", {}, "has no tokenizer; give prompt_embeds"),
    ],
)
def test_what_needs_a_missing_part_is_one_sentence(missing: str, call: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tokens(without(missing), PROMPT, **call)


def test_guidance_without_a_text_encoder_asks_for_negative_embeddings(tiny_pipeline: Any) -> None:
    embeds, mask = tiny_pipeline.encode_prompt(PROMPT)
    with pytest.raises(UsageError, match="negative_prompt_embeds or true_cfg_scale=1"):
        tokens(without("text_encoder", "tokenizer"), prompt_embeds=embeds, prompt_embeds_mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [("text_encoder", "tokenizer"), ("transformer",), ("vae",), ("scheduler",), PARTS])
def test_missing_parts_are_saved_and_loaded_as_missing(tmp_path: Path, missing: tuple[str, ...], caplog: Any) -> None:
    pipe = without(*missing)
    pipe.save_pretrained(tmp_path)
    assert "cannot be saved" not in caplog.text
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert [name for name in PARTS if index[name] == [None, None]] == [name for name in PARTS if name in missing]
    loaded = TagMoEPipeline.from_pretrained(tmp_path)
    assert {name for name in PARTS if getattr(loaded, name) is None} == set(missing)
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/model_index.json").read_text())["vae"] == index["vae"]


@pytest.mark.slow
def test_a_missing_part_can_be_given_at_load(tmp_path: Path, tiny_pipeline: Any) -> None:
    without("vae").save_pretrained(tmp_path)
    loaded = TagMoEPipeline.from_pretrained(tmp_path, vae=tiny_pipeline.vae)
    assert torch.equal(tokens(loaded, PROMPT), tokens(tiny_pipeline, PROMPT))
    tiny_pipeline.save_pretrained(tmp_path / "whole")
    part = TagMoEPipeline.from_pretrained(tmp_path / "whole", text_encoder=None, tokenizer=None)
    torch.testing.assert_close(tokens(part, **embeddings(tiny_pipeline)), tokens(tiny_pipeline, PROMPT))


@pytest.mark.slow
def test_weights_are_saved_as_safetensors_in_any_case(tmp_path: Path, tiny_pipeline: Any) -> None:
    tiny_pipeline.save_pretrained(tmp_path, safe_serialization=False, variant="fp16")
    files = {
        path.name for path in tmp_path.rglob("*") if "pytorch_model" in path.name or path.name.startswith("model.")
    }
    assert files == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    loaded = TagMoEPipeline.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(tokens(loaded, PROMPT), tokens(tiny_pipeline, PROMPT))
    with pytest.raises(CheckpointError, match="is missing"):
        TagMoEPipeline.from_pretrained(tmp_path)


def test_a_variant_that_no_part_has_is_one_sentence(tmp_path: Path, tiny_pipeline: Any) -> None:
    tiny_pipeline.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no weights of variant 'fp16'; load it without variant"):
        TagMoEPipeline.from_pretrained(tmp_path, variant="fp16")
    tiny_pipeline.transformer.save_pretrained(tmp_path / "transformer", variant="fp16")
    loaded = TagMoEPipeline.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(tokens(loaded, PROMPT), tokens(tiny_pipeline, PROMPT))
