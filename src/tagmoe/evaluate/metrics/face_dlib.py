"""Faces compared by dlib's network, where InsightFace's models are not at hand; no column of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.face import FaceMetric, Faces
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.extras import import_package
from tagmoe.sentences import reason_of

DOUBLINGS = (0, 1)
"""The detector finds faces of 80 pixels. Where there is none, the picture is doubled, as face_recognition does."""


class FaceDlib(FaceMetric):
    """One less the distance of embeddings. dlib takes two faces for the same person at 0.4 and more."""

    name = "face-ref:dlib"
    measure = Measure("face_dlib", "higher", "one less the distance of the faces of output and reference (dlib)")
    measures = (measure,)
    published = "the package face-recognition-models"
    licence = "CC0"
    files = ("dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat")

    def find(self, picture: Image.Image) -> Faces:
        """By dlib's frontal detector; embeddings have 128 numbers."""
        detector, landmarks, network = self.load()
        pixels = np.ascontiguousarray(picture)
        boxes = next(filter(None, (list(detector(pixels, times)) for times in DOUBLINGS)), [])
        found = [np.array(network.compute_face_descriptor(pixels, landmarks(pixels, box), 0)) for box in boxes]
        sides = [[box.left(), box.top(), box.right(), box.bottom()] for box in boxes]
        count = len(boxes)
        return Faces(np.array(sides, dtype=float).reshape(count, 4), np.array(found, dtype=float).reshape(count, 128))

    def similarity(self, reference: np.ndarray, faces: np.ndarray) -> float:
        """One less the smallest distance."""
        return 1.0 - float(np.linalg.norm(faces - reference, axis=1).min())

    def read(self) -> tuple[Any, Any, Any]:
        """Detector, landmarks and network."""
        dlib = import_package("dlib", f"The metric {self.name!r}")
        network, landmarks = (str(self.backbone.folder / file) for file in self.files)
        try:
            return (
                dlib.get_frontal_face_detector(),
                dlib.shape_predictor(landmarks),
                dlib.face_recognition_model_v1(network),
            )
        except RuntimeError as error:
            raise CheckpointError(f"The weights {self.backbone.name!r} cannot be read ({reason_of(error)}).") from None

    def versions(self) -> dict[str, str]:
        """dlib's own word: its distributions have several names."""
        return {"dlib": import_package("dlib", f"The metric {self.name!r}").__version__}
