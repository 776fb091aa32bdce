"""Face-ref (paper Tables 3 and 4): how much a face of the output is that of the reference.

As ICE-Bench's evaluator: InsightFace's buffalo_l; the detector looks at 640 pixels, then at 480, 384, 256 and 128,
until it finds a face; the first face of the reference counts, and of the output the most similar one. Where one of the
two pictures has no face, the value is 0.
"""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.learned import Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value
from tagmoe.evaluate.metrics.onnx_network import providers_of, session_options
from tagmoe.evaluate.metrics.references import ReferenceChoices, reference_inputs, why_not
from tagmoe.extras import import_package
from tagmoe.sentences import reason_of

LADDER = (640, 480, 384, 256, 128)
"""Sides of the detector's picture, tried in turn. A face that fills the picture is found at small ones alone."""


class FaceChoices(ReferenceChoices):
    """none: the value where the output or the reference has no face: 0, which counts in means, or missing.
    reference: the first face of a reference in the detector's order, or the largest."""

    none: Literal["zero", "missing"] = "zero"
    reference: Literal["first", "largest"] = "first"


class InsightFaceChoices(FaceChoices):
    """channels: InsightFace expects BGR, and ICE-Bench's evaluator hands it RGB."""

    channels: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class Faces:
    """The faces of a picture in the detector's order. boxes: (n, 4) left, top, right, bottom. embeddings: (n, d)."""

    boxes: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def one(self, which: str) -> np.ndarray:
        """The embedding (d,) of the first face or the largest."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.asarray(self.embeddings[0 if which == "first" else int(np.argmax(sides.prod(axis=1)))])


class FaceMetric(Learned):
    """Similarity of faces by one network. Pictures go through it one after the other, as detectors do it."""

    measure: ClassVar[Measure]
    choices: ClassVar[type[FaceChoices]] = FaceChoices
    chosen: FaceChoices
    is_batched = False

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """Output and references, where these show a face."""
        if why_not(pair.case, "face", self.chosen) is not None:
            return {}
        found = reference_inputs(pair, "picture", lambda picture: picture, self.chosen.refs)
        return {"output": Input("picture", pair.output), **found}

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """The faces of each picture."""
        return [self.find(picture) for picture in contents]

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The similarity."""
        reason = why_not(pair.case, "face", self.chosen)
        if reason is not None:
            return {self.measure.name: NoValue("not_applicable", reason)}
        references = [faces for name, faces in features.items() if name != "output"]
        return {self.measure.name: self._value(features["output"], references)}

    def _value(self, output: Faces, references: Sequence[Faces]) -> Value:
        found = [
            self.similarity(faces.one(self.chosen.reference), output.embeddings)
            for faces in references
            if len(faces) and len(output)
        ]
        if self.chosen.none == "zero":
            found += [0.0] * (len(references) - len(found))
        if not found:
            which = "the output" if not len(output) else "a reference"
            return NoValue("undefined", f"no face was found in {which}")
        return float(np.mean(found)) if self.chosen.refs == "mean" else max(found)

    @abstractmethod
    def find(self, picture: Image.Image) -> Faces:
        """The faces of a picture."""

    @abstractmethod
    def similarity(self, reference: np.ndarray, faces: np.ndarray) -> float:
        """Of a reference's face (d,) and the most similar one of the output's (n, d)."""


class Face(FaceMetric):
    """Similarity of faces by InsightFace."""

    name = "face"
    measure = Measure("face_ref", "higher", "Face-ref: similarity of the face of output and reference")
    measures = (measure,)
    choices = InsightFaceChoices
    chosen: InsightFaceChoices
    published = "InsightFace's buffalo_l"
    licence = "the models are for non-commercial research only"
    files = ("det_10g.onnx", "w600k_r50.onnx")
    packages = ("insightface", "onnxruntime")

    def find(self, picture: Image.Image) -> Faces:
        """By the first size of the ladder that finds a face; embeddings have length 1."""
        detector, recogniser = self.load()
        pixels = np.asarray(picture)
        if self.chosen.channels == "bgr":
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        boxes, points = np.empty((0, 5)), None
        for side in LADDER:
            boxes, points = detector.detect(pixels, input_size=(side, side))
            if len(boxes):
                break
        found = []
        for own in points if points is not None else ():
            with warnings.catch_warnings():
                # InsightFace calls what scikit-image will remove.
                warnings.simplefilter("ignore", FutureWarning)
                embedding = recogniser.get(pixels, _Landmarks(own))
            found.append(embedding / np.linalg.norm(embedding))
        width = recogniser.output_shape[-1]
        return Faces(boxes[:, :4], np.array(found, dtype=np.float32).reshape(len(found), width))

    def similarity(self, reference: np.ndarray, faces: np.ndarray) -> float:
        """The greatest cosine."""
        return float((faces @ reference).max())

    def read(self) -> tuple[Any, Any]:
        """Detector and recogniser. Each is opened by its path: by a name InsightFace would download it."""
        # insightface imports onnxruntime, which reports its use unless told not to.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        zoo = import_package("insightface", "The metric 'face'").model_zoo
        runs_on: dict[str, Any] = {"providers": providers_of(self.device), "sess_options": session_options()}
        found = []
        for file, task in zip(self.files, ("detection", "recognition"), strict=True):
            try:
                model = zoo.get_model(str(self.backbone.folder / file), **runs_on)
            except Exception as error:
                # Of onnx and onnxruntime, one for each kind of damage.
                raise CheckpointError(f"The network {file!r} cannot be read ({reason_of(error)}).") from None
            if getattr(model, "taskname", None) != task or not getattr(model, "use_kps", True):
                raise CheckpointError(f"The network {file!r} is none of InsightFace for the {task} of faces.")
            found.append(model)
        detector, recogniser = found
        detector.prepare(0, input_size=(LADDER[0], LADDER[0]), det_thresh=0.5)
        return detector, recogniser


class _Landmarks:
    """What InsightFace's recogniser reads of a face, and where it writes the embedding."""

    def __init__(self, points: np.ndarray) -> None:
        self.kps = points
        self.embedding: np.ndarray | None = None
