"""How well controllable tasks follow their control picture, as ICE-Bench defines it (arXiv 2503.14482; its evaluators).

Edge: canny(output) against the grey of the given edges. Colour: the grey of the output against that of the source, and
how colourful it is. Blur: SSIM to the source. The output is resized to the source first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.canny import canny
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value, lacking
from tagmoe.evaluate.metrics.structure import luma, ssim_map


class Controllability:
    """One or two values for a case whose `meta["control"]` is edge, colour or blur; not applicable for any other."""

    name = "control"
    version = 1
    measures = (
        Measure("l1_canny", "higher", "1 - mean |canny(output) - edges given| / 255"),
        Measure("l1_colorize", "higher", "1 - mean |grey(output) - grey(source)| / 255"),
        Measure("colorfulness", "higher", "Hasler and Suesstrunk's, of absolute opponent colours of 0..1"),
        Measure("ssim", "higher", "SSIM to the source of a deblurring"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The values of the case's control."""
        control = pair.case.meta.get("control")
        found = lacking(self.measures, "not_applicable", "the task has no control of this kind")
        if pair.source is None or control not in ("edge", "colour", "blur"):
            return found
        output = pair.beside(pair.source, "source")
        if control == "edge":
            edges = np.float32(255) * canny(np.asarray(output))
            return {**found, "l1_canny": _likeness(edges, _grey(pair.source))}
        if control == "colour":
            likeness = _likeness(_grey(output), _grey(pair.source))
            return {**found, "l1_colorize": likeness, "colorfulness": colourfulness(np.asarray(output))}
        structure = ssim_map(luma(output), luma(pair.source), clipped=True)
        small = NoValue("undefined", "the pictures are smaller than SSIM's window of 11 pixels")
        return {**found, "ssim": float(structure.mean()) if structure.size else small}


def colourfulness(picture: np.ndarray) -> float:
    """Of uint8 (H, W, 3). Unlike in Hasler and Suesstrunk 2003, |R - G| and |(R + G) / 2 - B| are absolute."""
    red, green, blue = np.moveaxis(picture.astype(np.float32) / 255, 2, 0)
    opponents = (np.abs(red - green), np.abs((red + green) / 2 - blue))
    spread = np.sqrt(sum(float(values.std()) ** 2 for values in opponents))
    mean = np.sqrt(sum(float(values.mean()) ** 2 for values in opponents))
    return float(spread + 0.3 * mean)


def _grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), dtype=np.float32)


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    return 1.0 - float(np.abs(a - b).mean()) / 255
