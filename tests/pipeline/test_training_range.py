"""A model's folder says what it learned from, and a call that is far from it is told so, in one sentence."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_model import build_pipeline

from tagmoe.errors import CheckpointError
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.training_range import far_from_training, looks_photographic, training_range
from tagmoe.world import sample

TAGWORLD = {"trained_on": {"pictures": "TagWorld", "sizes": [[64, 64]]}}
PHOTOS = {"trained_on": {"pictures": "pico, mine", "sizes": [[1024, 1024], [768, 1344], [1344, 768]]}}


def drawn(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(sample(0, 0).target).resize(size, Image.Resampling.NEAREST)


@cache
def photo(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Smooth gradients with grain, as a camera gives them."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    values = np.stack([200 * x, 80 + 150 * y, 255 * x * y], axis=-1)
    grain = np.random.default_rng(0).normal(0, 6, values.shape)
    return Image.fromarray((values + grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("config", "references", "size", "said"),
    [
        (TAGWORLD, [(drawn, (64, 64))], (64, 64), None),
        (TAGWORLD, [], (64, 96), None),
        (TAGWORLD, [], (64, 128), "an output of 64x128"),
        (TAGWORLD, [(photo, (640, 480))], (64, 64), "a picture of 640x480"),
        (TAGWORLD, [(photo, (64, 64))], (64, 64), "the colours of a photograph"),
        (PHOTOS, [(photo, (2000, 1500))], (1024, 1024), None),
        (PHOTOS, [(photo, (64, 64))], (1344, 768), None),
        (PHOTOS, [], (2048, 2048), "an output of 2048x2048"),
        (PHOTOS, [], (256, 256), "an output of 256x256"),
        ({"known_words": ["red"], "default_size": 64}, [], (512, 512), "an output of 512x512"),
        ({"known_words": None, "default_size": 1024}, [(photo, (64, 64))], (64, 64), None),
    ],
)
def test_what_is_far(config: dict[str, Any], references: list[Any], size: tuple[int, int], said: str | None) -> None:
    sentence = far_from_training(config, [draw(its_size) for draw, its_size in references], size)
    if said is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert said in sentence
        assert training_range(config)[0] in sentence  # type: ignore[index]


@pytest.mark.slow
def test_no_picture_of_tagworld_looks_like_a_photograph() -> None:
    for index in range(300):
        case = sample(77, index)
        for picture in (case.target, *case.sources):
            assert not looks_photographic(Image.fromarray(picture))


@pytest.mark.slow
def test_what_the_packaged_model_restores_does_not_either() -> None:
    """A picture that was edited before is edited again."""
    pipe = TagMoEPipeline.from_pretrained(packaged_folder())
    targets = np.stack([sample(77, index).target for index in range(100)])
    with torch.no_grad():
        restored = pipe.decode(pipe.encode_images(torch.from_numpy(targets).permute(0, 3, 1, 2).float() / 127.5 - 1))
    pictures = pipe.image_processor.postprocess(restored, output_type="pil")
    assert sum(map(looks_photographic, pictures)) <= 1


@pytest.mark.slow
def test_the_call_goes_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pipe = build_pipeline(**TAGWORLD)
    with caplog.at_level(logging.WARNING, logger="tagmoe"):  # a command in this process may have quieted it
        assert pipe("remove the triangle", drawn(), seed=1).images
        assert not caplog.records
        assert pipe("remove the triangle", photo((200, 100)), height=32, width=64, seed=1).images
    (record,) = caplog.records
    assert "an output of 64x32 and a picture of 200x100 is far from that" in record.getMessage()


@pytest.mark.slow
def test_it_is_saved_with_the_model_and_checked(tmp_path: Path) -> None:
    build_pipeline(**PHOTOS).save_pretrained(tmp_path)
    assert training_range(TagMoEPipeline.from_pretrained(tmp_path).config) == (
        "pico, mine",
        [(1024, 1024), (768, 1344), (1344, 768)],
    )
    index = json.loads((tmp_path / "model_index.json").read_text())
    for wrong in ("TagWorld", {"pictures": "x"}, {"pictures": "x", "sizes": []}, {"pictures": "x", "sizes": [[1, 0]]}):
        (tmp_path / "model_index.json").write_text(json.dumps(index | {"trained_on": wrong}))
        with pytest.raises(CheckpointError, match="trained_on"):
            TagMoEPipeline.from_pretrained(tmp_path)
