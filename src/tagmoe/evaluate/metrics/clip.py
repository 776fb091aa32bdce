"""CLIP-src, CLIP-cap and CLIP-ref (paper Tables 1 to 4): cosines of an output with source, caption and reference.

As ICE-Bench's evaluator: the projected features, no factor of 100, negative cosines stay, captions cut at 77 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from tagmoe.evaluate.metrics.learned import AS_FAITHFUL, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value
from tagmoe.evaluate.metrics.references import ReferenceChoices, reference_inputs, similarity


class ClipChoices(ReferenceChoices):
    """text: what CLIP-cap compares with; where a case has no target caption, its instruction may stand for it.
    cases: CLIP-ref for cases that are made from references alone, as ICE-Bench has it, or for all with a reference."""

    text: Literal["caption", "caption-or-instruction"] = "caption"


class Clip(Learned):
    """Cosines in the space of pictures and texts."""

    name = "clip"
    measures = (
        Measure("clip_src", "higher", "CLIP-src: similarity of output and source"),
        Measure("clip_cap", "higher", "CLIP-cap: similarity of output and target caption"),
        Measure("clip_ref", "higher", "CLIP-ref: similarity of output and reference"),
        Measure("clip_target", "higher", "similarity of output and target (CLIP-I of MagicBrush)"),
    )
    official: ClassVar[Mapping[str, Mapping[str, str]]] = {**AS_FAITHFUL, "magicbrush": {}, "dreambench-plus": {}}
    choices = ClipChoices
    chosen: ClipChoices
    published = "openai/clip-vit-large-patch14-336"
    licence = "MIT (code); the weights' card states none"

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """Output, and what it is compared with."""
        case = pair.case
        found = {"output": Input("picture", self._prepare(pair.output))}
        if self._edits(pair) and pair.source is not None:
            found["source"] = Input("picture", self._prepare(pair.source), case.source)
        if (text := self._text(pair)) is not None:
            found["text"] = Input("text", text, text)
        if self._has_reference(pair):
            found |= reference_inputs(pair, "picture", self._prepare, self.chosen.refs)
        if pair.target is not None:
            found["target"] = Input("picture", self._prepare(pair.target), case.target)
        return found if len(found) > 1 else {}

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The cosines that the case asks for."""
        lacks = {
            "clip_src": "the case has no source that is to be edited",
            "clip_cap": "the case has no target caption",
            "clip_ref": "the case is not made from references alone",
            "clip_target": "the benchmark has no target",
        }
        found: dict[str, Value] = {name: NoValue("not_applicable", why) for name, why in lacks.items()}
        for name, other in (("clip_src", "source"), ("clip_cap", "text"), ("clip_target", "target")):
            if other in features:
                found[name] = float(np.dot(features["output"], features[other]))
        if "reference 0" in features:
            found["clip_ref"] = similarity(features, self.chosen.refs)
        return found

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Unit vectors (batch, d)."""
        import torch

        model, tokenizer, _ = self.load()
        with torch.inference_mode():
            if kind == "text":
                limit = model.config.text_config.max_position_embeddings
                tokens = tokenizer(
                    list(contents), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
                ).to(self.device)
                features = model.get_text_features(**tokens)
            else:
                pixels = torch.from_numpy(np.stack(contents)).to(self.device)
                features = model.get_image_features(pixel_values=pixels)
            features = getattr(features, "pooler_output", features)
            return list(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy())

    def _prepare(self, picture: Any) -> np.ndarray:
        return np.asarray(self.load()[2](picture, return_tensors="np")["pixel_values"][0], dtype=np.float32)

    def _edits(self, pair: Pair) -> bool:
        return pair.case.source is not None and "control" not in pair.case.meta

    def _has_reference(self, pair: Pair) -> bool:
        return bool(pair.case.refs) and (self.chosen.cases == "all" or pair.case.source is None)

    def _text(self, pair: Pair) -> str | None:
        # Deblurring has a caption in ICE-Bench, and no score for it.
        if pair.case.meta.get("control") == "blur":
            return None
        caption = pair.case.target_caption
        return pair.case.instruction if caption is None and self.chosen.text != "caption" else caption

    def read(self) -> tuple[Any, Any, Any]:
        """The network, and what prepares its inputs."""
        from transformers import AutoTokenizer, CLIPModel

        model = self.backbone.load(CLIPModel, ["clip"], dtype="float32").to(self.device)
        tokenizer = AutoTokenizer.from_pretrained(self.backbone.folder, local_files_only=True)
        return model, tokenizer, self.backbone.image_processor()
