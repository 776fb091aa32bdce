"""DINO-ref (paper Tables 3 and 4): the cosine of an output with the reference that shows its subject.

As ICE-Bench's evaluator: the mean of all tokens, the class token among them; where the case has a mask, the output is
white outside it. DINO of the first version and DINOv2 both fit; the paper cites the first, ICE-Bench's code has the
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.learned import AS_FAITHFUL, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value
from tagmoe.evaluate.metrics.references import ReferenceChoices, reference_inputs, similarity, why_not


class DinoChoices(ReferenceChoices):
    """pooling: the mean of all tokens, or the class token. mask: the output is white outside the mask, or as it is."""

    pooling: Literal["mean", "class-token"] = "mean"
    mask: Literal["white-outside", "ignore"] = "white-outside"


class Dino(Learned):
    """Similarity of the subject."""

    name = "dino"
    measures = (
        Measure("dino_ref", "higher", "DINO-ref: similarity of output and the reference of its subject"),
        Measure("dino_target", "higher", "similarity of output and target (DINO-I of MagicBrush)"),
    )
    official: ClassVar[Mapping[str, Mapping[str, str]]] = {
        **AS_FAITHFUL,
        "magicbrush": {"pooling": "class-token"},
        "dreambench-plus": {"pooling": "class-token"},
    }
    choices = DinoChoices
    chosen: DinoChoices
    published = "facebook/dinov2-giant"
    licence = "Apache-2.0"

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """Output, references and target. Only the output beside a reference is white outside the mask."""
        found: dict[str, Input] = {}
        if why_not(pair.case, "subject", self.chosen) is None:
            found = reference_inputs(pair, "picture", self._prepare, self.chosen.refs)
            found["output"] = Input("picture", self._prepare(self._masked(pair)))
        if pair.target is not None:
            found["target"] = Input("picture", self._prepare(pair.target), pair.case.target)
            found["whole output"] = Input("picture", self._prepare(pair.output))
        return found

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The cosines."""
        reason = why_not(pair.case, "subject", self.chosen)
        found: dict[str, Value] = {
            "dino_ref": NoValue("not_applicable", reason) if reason else similarity(features, self.chosen.refs),
            "dino_target": NoValue("not_applicable", "the benchmark has no target"),
        }
        if "target" in features:
            found["dino_target"] = float(np.dot(features["whole output"], features["target"]))
        return found

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Unit vectors (batch, d)."""
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(contents)).to(self.device)
            tokens = self.load()[0](pixel_values=pixels).last_hidden_state.float()
            features = tokens.mean(dim=1) if self.chosen.pooling == "mean" else tokens[:, 0]
            return list(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())

    def _masked(self, pair: Pair) -> Image.Image:
        edited = pair.edited(pair.output) if self.chosen.mask == "white-outside" else None
        if edited is None:
            return pair.output
        return Image.fromarray(np.where(edited[..., None], np.asarray(pair.output), np.uint8(255)))

    def _prepare(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(self.load()[1](picture, return_tensors="np")["pixel_values"][0], dtype=np.float32)

    def read(self) -> tuple[Any, Any]:
        """The network, and what prepares its inputs."""
        from transformers import AutoModel

        model = self.backbone.load(AutoModel, ["dinov2", "vit"], dtype="float32").to(self.device)
        return model, self.backbone.image_processor()
