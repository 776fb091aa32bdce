"""The pixels of a picture do not depend on what is drawn with it, bit for bit, on a CPU with one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_model import build_pipeline

from tagmoe.serve.asked import Asked
from tagmoe.serve.painter import PipelinePainter
from tagmoe.serve.refusal import Refusal
from tagmoe.serve.work import Work

PICTURES = [Image.effect_noise((64, 64), 10 + 9 * n).convert("RGB") for n in range(9)]


def works(painter: PipelinePainter, texts: list[str], cfg: float, *, edits: bool) -> list[Work]:
    made = []
    for number, text in enumerate(texts):
        shown = [PICTURES[number]] if edits else []
        scene = painter.check(Asked(text, cfg=cfg, steps=3), shown, None, text)
        made.append(Work(scene.key, scene, number))
    return made


def pixels(painter: PipelinePainter, batch: list[Work]) -> list[np.ndarray]:
    return [np.asarray(drawn.image) for drawn in painter.draw(batch, lambda: None)]


def exact(painter: PipelinePainter, texts: list[str], *, sizes: tuple[int, ...]) -> None:
    latents: list[torch.Tensor] = []
    decode = painter.pipeline.decode
    painter.pipeline.decode = lambda x: latents.extend(x.split(1)) or decode(x)  # type: ignore[method-assign]
    for edits in (True, False):
        for cfg in (1.0, 3.0):
            batch = works(painter, texts, cfg, edits=edits)
            assert len({work.key for work in batch}) == 1
            latents.clear()
            alone = [pixels(painter, [work])[0] for work in batch]
            kept = list(latents)
            for size in sizes:
                latents.clear()
                for mine, own in zip(pixels(painter, batch[:size]), alone, strict=False):
                    assert (mine == own).all()
                assert all(torch.equal(a, b) for a, b in zip(latents[:size], kept, strict=False))


def test_a_picture_of_the_tiny_pipeline_is_the_same_in_any_batch() -> None:
    painter = PipelinePainter(build_pipeline(), "tiny", threads=1)
    assert painter.batches
    exact(painter, ["change the background to stripes"] * 9, sizes=(2, 5, 9))


@pytest.mark.slow
def test_a_picture_of_the_packaged_model_is_the_same_in_any_batch() -> None:
    from tagmoe.pipeline.packaged import load_packaged

    painter = PipelinePainter(load_packaged(), "packaged", threads=1)
    colours = ("blue", "red", "green", "pink", "blue", "blue", "red", "green", "blue")
    exact(painter, [f"make the star {colour}" for colour in colours], sizes=(2, 3, 4, 5, 9))


def test_what_the_model_cannot_draw_is_refused_by_field(tiny_pipeline: Any) -> None:
    painter = PipelinePainter(build_pipeline(), "tiny")
    for fields, param in (
        ({"size": (65, 64)}, "size"),
        ({"negative": "fog", "cfg": 1.0}, "negative_prompt"),
        ({"lora": (("../x", 1.0),)}, "lora"),
    ):
        with pytest.raises(Refusal) as caught:
            painter.check(Asked("add a red circle", **fields), [], None, "add a red circle")  # type: ignore[arg-type]
        assert caught.value.param == param
