"""Aes (paper Table 1): the aesthetic predictor v2.5, a head of five linear layers on SigLIP's pooled features.

As ICE-Bench's evaluator: the picture is resized to a height of 1024 first; values are about 1 to 10 and are not
normalised, as the paper's table prints them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.learned import Choices, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, Pair, Value
from tagmoe.sentences import reason_of

HEAD = "aesthetic_head.safetensors"
"""The head lies in the folder of SigLIP under this name. Its authors publish a pickle (AGPL-3.0), which is not read."""
WIDTHS = (1024, 128, 64, 16, 1)
"""Outputs of the five layers; between them there is dropout alone, and no nonlinearity. [aesthetic-predictor-v2-5]"""
HEIGHT = 1024


class AestheticChoices(Choices):
    """height: pictures are resized to this height first, keeping their aspect, or go to SigLIP as they are.
    dtype: of SigLIP and the head."""

    height: Literal["1024", "own"] = "1024"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Aesthetic(Learned):
    """How beautiful a picture is found."""

    name = "aesthetic"
    measures = (Measure("aes", "higher", "Aes: aesthetic predictor v2.5, about 1 to 10"),)
    choices = AestheticChoices
    chosen: AestheticChoices
    published = "google/siglip-so400m-patch14-384"
    licence = "SigLIP Apache-2.0; the head AGPL-3.0, to be converted by yourself"

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """The output alone."""
        return {"output": Input("picture", self._prepare(pair.output))}

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The score."""
        return {"aes": features["output"]}

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Scores (batch,)."""
        import torch

        model, head, _ = self.load()
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(contents)).to(self.device, model.dtype)
            features = torch.nn.functional.normalize(model(pixel_values=pixels).pooler_output, dim=-1)
            scores: list[float] = head(features)[:, 0].float().cpu().tolist()
        return scores

    def _prepare(self, picture: Image.Image) -> np.ndarray:
        if self.chosen.height != "own":
            width = max(1, int(picture.width * HEIGHT / picture.height))
            picture = picture.resize((width, HEIGHT))
        return np.asarray(self.load()[2](picture, return_tensors="np")["pixel_values"][0], dtype=np.float32)

    def read(self) -> tuple[Any, Any, Any]:
        """The network, and what prepares its inputs."""
        from transformers import SiglipVisionModel

        model = self.backbone.load(SiglipVisionModel, ["siglip", "siglip_vision_model"], dtype=self.chosen.dtype)
        head = read_head(self.backbone.folder / HEAD, model.config.hidden_size)
        return model.to(self.device), head.to(self.device, model.dtype), self.backbone.image_processor()


def read_head(file: Path, width: int) -> Any:
    """The five layers (width -> 1024 -> 128 -> 64 -> 16 -> 1) from safetensors, in evaluation mode.

    Layers stand in the order of the numbers in their names. Raises CheckpointError for a file that is not there, and
    for other layers.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise CheckpointError(f"The aesthetic head {file.name!r} is not in {str(file.parent)!r}; convert it.")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read ({reason_of(error)}).") from None
    names = sorted(tensors, key=lambda name: ([int(digits) for digits in re.findall(r"\d+", name)], name[::-1]))
    shapes = [tuple(tensors[name].shape) for name in names]
    wanted = [shape for pair in zip((width, *WIDTHS), WIDTHS, strict=False) for shape in ((pair[1],), pair[::-1])]
    if shapes != wanted:
        raise CheckpointError(f"{str(file)!r} is no head of layers from {width} to {', '.join(map(str, WIDTHS))}.")
    layers = [torch.nn.Linear(before, after) for before, after in zip((width, *WIDTHS), WIDTHS, strict=False)]
    for number, layer in enumerate(layers):
        layer.load_state_dict({"bias": tensors[names[2 * number]], "weight": tensors[names[2 * number + 1]]})
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)
