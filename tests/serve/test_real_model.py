"""The server with a real pipeline, tiny and random: LoRAs, masks, and routing in the pixels that come back."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from support.serving import Running, serving
from support.tiny_model import TEXTS, build_pipeline

from tagmoe.pictures import load_image, png_of
from tagmoe.serve.limits import Limits
from tagmoe.serve.painter import PipelinePainter

SOURCE = Image.effect_noise((64, 64), 60).convert("RGB")
PNG = png_of(SOURCE)
PROMPT = TEXTS[1]


def lora_file(folder: Path) -> Path:
    """A LoRA of random weights for the tiny transformer."""
    peft = pytest.importorskip("peft")
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    trained = build_pipeline().transformer
    trained.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = peft.get_peft_model_state_dict(trained)
    TagMoEPipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    painter = PipelinePainter(
        build_pipeline(), "tiny", loras={"sketch": lora_file(tmp_path_factory.mktemp("lora"))}, threads=1
    )
    with serving(painter, limits=Limits(wait=0)) as running:
        yield running


def edit(server: Running, *, mask: Image.Image | None = None, picture: bytes = PNG, **extra: Any) -> np.ndarray:
    options = {} if mask is None else {"mask": ("m.png", png_of(mask))}
    answer = server.client().images.edit(
        model="m", image=("x.png", picture), prompt=PROMPT, extra_body={"seed": 3, "steps": 2, **extra}, **options
    )
    assert answer.data is not None
    return np.asarray(load_image(base64.b64decode(answer.data[0].b64_json or "")))


def test_a_lora_changes_the_pixels_by_its_strength_and_leaves_no_trace(server: Running) -> None:
    plain = edit(server)
    whole = edit(server, lora="sketch")
    assert (whole != plain).any()
    half = edit(server, lora='{"sketch": 0.5}')
    assert (half != plain).any()
    assert (half != whole).any()
    assert (edit(server, lora='{"sketch": 1.0}') == whole).all()
    assert (edit(server) == plain).all()
    with pytest.raises(openai.BadRequestError, match="no LoRA 'other'; it has sketch") as caught:
        edit(server, lora="other")
    assert caught.value.param == "lora"


def hole(size: tuple[int, int]) -> Image.Image:
    """Transparent in the left half, as OpenAI's masks are."""
    mask = Image.new("RGBA", size, (9, 9, 9, 255))
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    return mask


def test_a_mask_is_that_of_the_command_line(server: Running) -> None:
    """Outside it the source stays to the pixel, at its own size; inside it the pixels are those of `edit --mask`."""
    large = SOURCE.resize((160, 160))
    for picture in (SOURCE, large):
        found = edit(server, mask=hole(picture.size), picture=png_of(picture))
        half = picture.width // 2
        assert (found[:, half:] == np.asarray(picture)[:, half:]).all()
        assert (found[:, :half] != np.asarray(picture)[:, :half]).any()
        white = Image.new("L", picture.size, 0)
        white.paste(255, (0, 0, half, picture.height))
        own = build_pipeline()(PROMPT, [picture], mask_image=white, num_inference_steps=2, seed=3).images[0]
        # The server keeps the samples of a batch apart, which may change last bits.
        assert np.abs(found.astype(int) - np.asarray(own).astype(int)).max() <= 1
    with pytest.raises(openai.BadRequestError, match="The mask is") as caught:
        edit(server, mask=hole((64, 32)))
    assert caught.value.param == "mask"


def test_routing_is_of_the_picture_that_comes_back(server: Running) -> None:
    answer = server.client().images.edit(
        model="m", image=("x.png", PNG), prompt=PROMPT, n=2, extra_body={"seed": 3, "steps": 2, "routing": True}
    )
    assert answer.data is not None
    for entry in answer.data:
        routing = entry.model_dump()["routing"]
        assert set(routing) == {"predicted_tags", "rule_tags", "signature", "expert_shares", "explanation"}
        assert np.allclose(np.sum(routing["expert_shares"], axis=1), 1, atol=1e-4)
        assert routing["explanation"].lstrip().startswith("<!doctype html>")
