"""Pictures inside the prompt, as in Qwen-Image-Edit: the text encoder sees the references through its vision tower.

A prompt beside pictures has a template of its own. A mark for each picture stands before the prompt, and its
`<|image_pad|>` is repeated once for each token of the picture. transformers' processor of whole prompts needs
torchvision, and its image processor for PIL does not; so only that one is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tagmoe.pictures import fit_size, resize_image

PAD = "<|image_pad|>"
NUMBERED_MARK = f"Picture {{}}: <|vision_start|>{PAD}<|vision_end|>"
PLAIN_MARK = f"<|vision_start|>{PAD}<|vision_end|>"
EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
SEEN_AREA = 384 * 384
SEEN_MULTIPLE = 32
"""Qwen-Image-Edit resizes a picture to about SEEN_AREA pixels and sides of this multiple, before its processor does."""
SEEN_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
"""Fewest and most pixels of a picture in Qwen2.5-VL's own preprocessor_config.json."""
EDITING_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "QwenImageEditPipeline": {
        "picture_template": EDIT_TEMPLATE,
        "picture_mark": PLAIN_MARK,
        "picture_area": 1024 * 1024,
    },
    "QwenImageEditPlusPipeline": {
        "picture_template": EDIT_TEMPLATE,
        "picture_mark": NUMBERED_MARK,
        "picture_area": SEEN_AREA,
    },
}
"""What the folders of diffusers' editing pipelines mean by their class, and do not state in model_index.json."""


def picture_options(index: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model_index.json about pictures in the prompt: stated, or meant by its class."""
    meant = EDITING_CLASSES.get(str(index.get("_class_name")), {})
    names = ("picture_template", "picture_mark", "picture_area")
    return {name: index.get(name, meant.get(name)) for name in names if name in index or name in meant}


@dataclass(frozen=True)
class SeenPictures:
    """Pictures as the vision tower takes them: patches (P, C), the grid (N, 3) of each picture, and its tokens."""

    patches_PC: torch.Tensor
    grids_N3: torch.Tensor
    tokens: list[int]


def see(pictures: Sequence[PIL.Image.Image], area: int, config: Qwen2_5_VLConfig) -> SeenPictures:
    """The input of the vision tower for these RGB pictures, resized to about `area` pixels each."""
    vision = config.vision_config
    processor = Qwen2VLImageProcessorPil(
        size=SEEN_PIXELS,
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )
    resized = [resize_image(picture, *fit_size(*picture.size, area, SEEN_MULTIPLE)) for picture in pictures]
    found = processor(images=resized, return_tensors="pt")
    grids = found["image_grid_thw"]
    tokens = (grids.prod(dim=1) // vision.spatial_merge_size**2).tolist()
    return SeenPictures(found["pixel_values"], grids, tokens)


def marks_of(mark: str, tokens: Sequence[int]) -> str:
    """The marks of pictures with these numbers of tokens. A `{}` in the mark is the number of the picture, from 1."""
    return "".join(mark.replace("{}", str(place)).replace(PAD, PAD * count) for place, count in enumerate(tokens, 1))
