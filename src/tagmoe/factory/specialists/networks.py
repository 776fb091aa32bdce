"""Trained networks of the specialists, in ONNX files: from a picture to a map of it, or to it in a style."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.evaluate.answers.weights import digest_of_files
from tagmoe.evaluate.metrics.onnx_network import open_session
from tagmoe.factory.specialists.settings import Network, StyleNetwork
from tagmoe.factory.specialists.specialist import Model
from tagmoe.sentences import reason_of

MULTIPLE = 32
"""Of which the sides are that a network sees, where its settings name none."""

KEPT = 4
"""Maps that are kept."""


class OnnxFile:
    """The file of a network. It is found at once, and read when the first picture comes."""

    def __init__(self, settings: Network | StyleNetwork) -> None:
        """Raises MissingError where there is no file."""
        path = Path(settings.file)
        if not path.is_file():
            raise MissingError(f"There is no network {settings.file!r}; give the path of an ONNX file.")
        self.path = path
        self.model = Model(
            settings.name or path.stem,
            settings.licence,
            digest_of_files({path.name: path}),
            settings.may_train,
        )

    @cached_property
    def session(self) -> Any:
        """The session. Raises CheckpointError for a damaged file, MissingError without onnxruntime."""
        return open_session(self.path, "cpu")

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """All outputs, for inputs in the order of the graph. Raises CheckpointError where they do not fit it."""
        wanted = self.session.get_inputs()
        if len(wanted) != len(inputs):
            raise CheckpointError(f"The network {self.path.name!r} takes {len(wanted)} inputs and not {len(inputs)}.")
        try:
            found = self.session.run(None, {own.name: given for own, given in zip(wanted, inputs, strict=True)})
        except Exception as error:
            # onnxruntime has a class of error for each kind of fault, without a common one.
            raise CheckpointError(f"The network {self.path.name!r} cannot be run ({reason_of(error)}).") from None
        return [np.asarray(one) for one in found]


class MapNetwork:
    """A network that gives one number for each pixel."""

    def __init__(self, settings: Network) -> None:
        self._settings, self._file = settings, OnnxFile(settings)
        self._kept: OrderedDict[tuple[Any, bytes], np.ndarray] = OrderedDict()

    @property
    def model(self) -> Model:
        """The model."""
        return self._file.model

    def open(self) -> None:
        """Read the file. Raises CheckpointError for a damaged one, MissingError without onnxruntime."""
        assert self._file.session

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(H, W) float32 of 0 to 1, at the size of the picture. Both directions of a pair ask for one map: the last few
        are kept."""
        key = (image.size, hashlib.sha256(image.tobytes()).digest())
        if key not in self._kept:
            self._kept[key] = self._found(image)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _found(self, image: Image.Image) -> np.ndarray:
        given = self._settings
        seen = image.resize(self._size(image), Image.Resampling.BILINEAR)
        pixels = np.asarray(seen, dtype=np.float32) / 255
        if given.channels == "bgr":
            pixels = pixels[..., ::-1]
        pixels = (pixels - np.array(given.mean, np.float32)) / np.array(given.std, np.float32)
        outputs = self._file.run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32))
        if given.output >= len(outputs):
            raise CheckpointError(f"The network {self.model.name!r} has {len(outputs)} outputs and no {given.output}.")
        found = np.squeeze(outputs[given.output]).astype(np.float32)
        if found.ndim != 2 or not np.isfinite(found).all():
            raise CheckpointError(
                f"The output {given.output} of the network {self.model.name!r} is of shape "
                f"{'x'.join(map(str, found.shape))}; it must be one finite number for each pixel."
            )
        if given.stretch:
            found = (found - found.min()) / max(float(np.ptp(found)), 1e-6)
        whole = Image.fromarray(np.clip(found, 0, 1)).resize(image.size, Image.Resampling.BILINEAR)
        return np.clip(np.asarray(whole, dtype=np.float32), 0, 1)

    def _size(self, image: Image.Image) -> tuple[int, int]:
        if self._settings.side is not None:
            return self._settings.side, self._settings.side
        first, second = (max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in image.size)
        return first, second


class DrawingNetwork:
    """A network that draws a picture in one of its styles."""

    def __init__(self, settings: StyleNetwork) -> None:
        self._settings, self._file = settings, OnnxFile(settings)

    @property
    def model(self) -> Model:
        """The model."""
        return self._file.model

    def open(self) -> None:
        """Read the file. Raises CheckpointError for a damaged one, MissingError without onnxruntime."""
        assert self._file.session

    def __call__(self, image: Image.Image, style: str) -> np.ndarray:
        """(H, W, 3) uint8: the picture in a style, at its own size."""
        side = self._settings.side
        pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32) / 255
        _, weights = self._file.session.get_inputs()
        place, count = self._settings.styles[style], weights.shape[-1]
        if not isinstance(count, int) or place >= count:
            raise CheckpointError(
                f"The network {self.model.name!r} has {count} styles, and none of the place {place} ({style})."
            )
        wanted = np.zeros(count, dtype=np.float32)
        wanted[place] = 1
        (drawn, *_) = self._file.run(pixels.transpose(2, 0, 1)[None], wanted)
        drawn = np.squeeze(drawn)
        if drawn.ndim != 3 or drawn.shape[0] != 3:
            raise CheckpointError(f"The network {self.model.name!r} draws no picture: its output is {drawn.shape}.")
        whole = Image.fromarray((np.clip(drawn.transpose(1, 2, 0), 0, 1) * 255 + 0.5).astype(np.uint8))
        return np.asarray(whole.resize(image.size, Image.Resampling.LANCZOS))
