"""A mask: inside it the picture changes, outside it every pixel stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tagmoe import load_packaged
from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_image
from tagmoe.pipeline.masking import Masking, fit_mask
from tagmoe.pipeline.packaged import example
from tagmoe.pipeline.tensors import images_to_tensor

PROMPT = "add a red circle to the left of the blue square"


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def mask(size: tuple[int, int] = (64, 64), box: tuple[int, int, int, int] = (20, 10, 45, 30)) -> Image.Image:
    found = Image.new("L", size)
    found.paste(255, box)
    return found


@pytest.mark.parametrize("size", [(64, 64), (200, 200), (90, 60)])
def test_outside_the_mask_every_pixel_is_the_source(tiny_pipeline: Any, size: tuple[int, int]) -> None:
    source = picture(size=size)
    chosen = mask(size)
    (result,) = tiny_pipeline(PROMPT, source, mask_image=chosen, num_inference_steps=2, seed=0).images
    assert result.size == size
    inside, changed = np.asarray(chosen) > 0, np.asarray(result) != np.asarray(source)
    assert not changed[~inside].any()
    assert changed[inside].any(axis=-1).mean() > 0.9


@pytest.mark.slow
def test_a_mask_for_all_prompts_or_one_for_each(tiny_pipeline: Any) -> None:
    sources, masks = [[picture(1)], [picture(2)]], [mask(), mask(box=(0, 40, 64, 64))]
    options = {"num_inference_steps": 1, "seed": 3, "num_images_per_prompt": 2}
    result = tiny_pipeline([PROMPT, PROMPT], sources, mask_image=masks, **options).images
    assert len(result) == 4
    for index, image in enumerate(result):
        outside = np.asarray(masks[index // 2]) == 0
        assert np.array_equal(np.asarray(image)[outside], np.asarray(sources[index // 2][0])[outside])
    shared = tiny_pipeline([PROMPT, PROMPT], picture(1), mask_image=masks[0], **options).images
    assert all(np.array_equal(np.asarray(image)[40:], np.asarray(picture(1))[40:]) for image in shared)


def test_the_last_latents_hold_the_source_where_it_is_kept(tiny_pipeline: Any) -> None:
    seen: list[torch.Tensor] = []

    def watch(_pipeline: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        return {}

    source, chosen = picture(), mask(box=(0, 0, 32, 64))
    tiny_pipeline(PROMPT, source, mask_image=chosen, num_inference_steps=3, seed=0, callback_on_step_end=watch)
    clean = tiny_pipeline.pack_latents(tiny_pipeline.encode_images(images_to_tensor([source])))
    grid = (64 // tiny_pipeline.size_multiple,) * 2
    difference = (seen[-1] - clean).abs().amax(dim=-1).reshape(grid)
    assert difference[:, grid[1] // 2 :].max() == 0
    assert difference[:, : grid[1] // 2].min() > 0
    # Before the last step they are still noisy.
    assert (seen[0] - clean).abs().amax(dim=-1).reshape(grid)[:, grid[1] // 2 :].min() > 0


def test_noise_is_mixed_by_its_level() -> None:
    clean, noise, latents = torch.zeros(1, 2, 1), torch.ones(1, 2, 1), torch.full((1, 2, 1), 5.0)
    masking = Masking([], [], torch.tensor([[[True], [False]]]), clean, noise)
    assert masking.blend(latents, 0.25).flatten().tolist() == [5.0, 0.25]
    assert masking.blend(latents, 0.0).flatten().tolist() == [5.0, 0.0]


def test_sizes_that_differ_are_fitted_or_refused() -> None:
    source = Image.new("RGB", (200, 101))
    assert fit_mask(mask((100, 50)), source).size == (200, 101)
    assert fit_mask(mask((400, 202)), source).size == (200, 101)
    with pytest.raises(ImageError, match=r"The mask is 64x64 and its picture 200x101"):
        fit_mask(mask(), source)
    with pytest.raises(ImageError, match="selects nothing"):
        fit_mask(Image.new("L", (200, 101)), source)


def test_one_selected_pixel_of_a_large_picture_is_not_lost(tiny_pipeline: Any) -> None:
    source, point = picture(size=(1024, 1024)), Image.new("L", (1024, 1024))
    point.putpixel((500, 500), 255)
    (result,) = tiny_pipeline(PROMPT, source, mask_image=point, num_inference_steps=1, seed=0).images
    changed = np.argwhere((np.asarray(result) != np.asarray(source)).any(axis=-1))
    assert changed.tolist() == [[500, 500]]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"image": None}, "without a picture"),
        ({"output_type": "np"}, 'give "pil"'),
        ({"mask_image": [mask(), mask()]}, "2 entries for 1 prompts"),
        ({"mask_image": Path("nothing.png")}, "no picture file"),
    ],
)
def test_what_cannot_be_masked_is_refused(tiny_pipeline: Any, options: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        tiny_pipeline(PROMPT, **{"image": picture(), "mask_image": mask(), **options})


@pytest.mark.slow
def test_the_packaged_model_edits_inside_a_mask() -> None:
    pipeline = load_packaged()
    pipeline.set_progress_bar_config(disable=True)
    source = load_image(example("scene"))
    plain = pipeline("make the star blue", source, seed=0).images[0]
    star = (np.asarray(plain).astype(int) - np.asarray(source)).__abs__().max(axis=-1) > 60
    rows, columns = np.where(star)
    chosen = mask(box=(int(columns.min()) - 1, int(rows.min()) - 1, int(columns.max()) + 2, int(rows.max()) + 2))
    (result,) = pipeline("make the star blue", source, mask_image=chosen, seed=0).images
    outside = np.asarray(chosen) == 0
    assert np.array_equal(np.asarray(result)[outside], np.asarray(source)[outside])
    # The star itself is blue, as without a mask.
    assert np.abs(np.asarray(result).astype(int) - np.asarray(plain))[star].mean() < 25


def test_a_negative_prompt_without_guidance_is_said(tiny_pipeline: Any, caplog: pytest.LogCaptureFixture) -> None:
    # A command of an earlier test may have quieted the logger.
    caplog.set_level("WARNING", logger="tagmoe")
    tiny_pipeline(PROMPT, negative_prompt="blue", true_cfg_scale=1.0, num_inference_steps=1, seed=0)
    assert "no effect" in caplog.text
