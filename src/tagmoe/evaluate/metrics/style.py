"""Style-ref (paper Table 4): how much the style of the output is that of the reference, by CSD.

CSD is CLIP's ViT-L/14 for pictures without its projection, and a matrix in the projection's place. [Somepalli et al.
2024, arXiv 2404.01292] As ICE-Bench's evaluator: the shorter side becomes 224 (bicubic), the middle is cut out, and the
unit vectors are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.evaluate.metrics.references import ReferenceMetric
from tagmoe.sentences import reason_of

FILE = "csd.safetensors"
"""The published checkpoint is a pickle; docs/metrics.md shows how it becomes this file, names kept."""
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
"""Of CLIP's training pictures. [OpenAI's clip]"""
HEAD_WIDTH = 64
"""Channels of each attention head in every CLIP of OpenAI."""
PARTS = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks": "encoder.layers",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""OpenAI's names of parts -> those of transformers. `in_proj` holds query, key and value one above the other."""


class Style(ReferenceMetric):
    """Similarity of style by CSD."""

    name = "style"
    shows = "style"
    measure = Measure("style_ref", "higher", "Style-ref: similarity of the style of output and reference")
    measures = (measure,)
    published = "tomg-group-umd/CSD-ViT-L"
    licence = "MIT; its authors say that the weights do not give their paper's numbers"
    files = (FILE,)

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Unit vectors (batch, d)."""
        import torch

        model, matrix = self.load()
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(contents)).to(self.device)
            features = model(pixel_values=pixels).pooler_output @ matrix
            return list(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """(3, side, side) float32."""
        side = self.load()[0].config.image_size
        shorter = min(picture.size)
        width, height = (int(side * length / shorter) for length in picture.size)
        # As torchvision: transformers' own preparation rounds the place of the cut down, which is another pixel.
        left, top = round((width - side) / 2), round((height - side) / 2)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        cut = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        return np.ascontiguousarray(((cut - MEAN) / DEVIATION).transpose(2, 0, 1))

    def read(self) -> tuple[Any, Any]:
        """The network and the matrix (width, d)."""
        model, matrix = read_csd(self.backbone.folder / FILE)
        return model.to(self.device), matrix.to(self.device)


def read_csd(file: Path) -> tuple[Any, Any]:
    """CLIP's network for pictures and the matrix (width, d) of styles, float32, without gradients.

    Sizes are those of the tensors. Raises CheckpointError for a file that cannot be read, or of other tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    try:
        tensors = {name.removeprefix("module."): tensor.float() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read ({reason_of(error)}).") from None
    needed = ("backbone.conv1.weight", "backbone.positional_embedding", "last_layer_style")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise CheckpointError(f"{str(file)!r} is no CSD: it has no tensor {missing[0]!r}; see docs/metrics.md.")
    matrix, own = tensors["last_layer_style"], _named_by_transformers(tensors)
    width, _, patch, _ = tensors["backbone.conv1.weight"].shape
    blocks = {name.split(".")[2] for name in own if name.startswith("encoder.layers.")}
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=len(blocks),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=patch * round((len(tensors["backbone.positional_embedding"]) - 1) ** 0.5),
        patch_size=patch,
    )
    model = CLIPVisionModel(config)
    try:
        model.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{str(file)!r} is no CSD ({reason_of(error)}).") from None
    if matrix.ndim != 2 or len(matrix) != width:
        raise CheckpointError(f"{str(file)!r} is no CSD: 'last_layer_style' is of {tuple(matrix.shape)}.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (matrix, *own.values())):
        raise CheckpointError(f"{str(file)!r} holds numbers that are not finite.")
    return model.eval().requires_grad_(False), matrix


def _named_by_transformers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's tensors by the names of `CLIPVisionModel`."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not name.startswith("backbone."):
            continue
        name = name.removeprefix("backbone.")
        for theirs, ours in PARTS.items():
            name = name.replace(theirs, ours)
        if ".attn.in_proj_" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(".attn.in_proj_", f".self_attn.{letter}_proj.")] = part
        else:
            found[name] = tensor
    return found
