"""L1, L2, PSNR and SSIM: against the target, and against the source inside and outside the mask.

`l1_raw` is ICE-Bench's own: the mean absolute difference to the source, outside the mask where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value, lacking
from tagmoe.evaluate.metrics.structure import luma, ssim_map, windows_outside

_NO_TARGET = "the benchmark has no target"
_NO_SOURCE = "the case has no source"
_NO_MASK = "the case has no mask"
_ALL = "the mask is the whole picture"
_NONE = "the mask is empty"
_EQUAL = "the pictures are equal, so that PSNR is infinite"
_SMALL = "the pictures are smaller than SSIM's window of 11 pixels"
_NO_WINDOW = "no window of SSIM lies outside the mask"


class TargetDifference:
    """How far the output is from the right answer, pixel by pixel. Colours are 0 to 1."""

    name = "target"
    version = 1
    measures = (
        Measure("l1_target", "lower", "mean absolute difference to the target", 4),
        Measure("l2_target", "lower", "mean squared difference to the target", 4),
        Measure("psnr_target", "higher", "PSNR to the target, dB", 2),
        Measure("ssim_target", "higher", "SSIM to the target"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The four values; not applicable without a target."""
        if pair.target is None:
            return lacking(self.measures, "not_applicable", _NO_TARGET)
        output = pair.beside(pair.target, "target")
        difference = _difference(output, pair.target)
        found = ssim_map(luma(output), luma(pair.target))
        return {
            **_errors(difference, "target"),
            "ssim_target": float(found.mean()) if found.size else NoValue("undefined", _SMALL),
        }


class SourceDifference:
    """How much of the source changed, inside and outside the mask. Colours are 0 to 1."""

    name = "source"
    version = 1
    measures = (
        Measure("l1_raw", "lower", "mean absolute difference to the source, outside the mask if any (ICE-Bench)", 4),
        Measure("l1_outside", "lower", "mean absolute difference to the source outside the mask", 4),
        Measure("l2_outside", "lower", "mean squared difference to the source outside the mask", 4),
        Measure("psnr_outside", "higher", "PSNR to the source outside the mask, dB", 2),
        Measure("ssim_outside", "higher", "SSIM to the source, of windows outside the mask"),
        Measure("l1_inside", "neither", "mean absolute difference to the source inside the mask", 4),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The six values; not applicable without a source, those of the mask without a mask."""
        if pair.source is None:
            return lacking(self.measures, "not_applicable", _NO_SOURCE)
        if "control" in pair.case.meta:
            return lacking(self.measures, "not_applicable", "the source is a control picture and is not to be kept")
        output = pair.beside(pair.source, "source")
        difference = _difference(output, pair.source)
        edited = pair.edited
        if edited is None:
            whole: Value = float(np.abs(difference).mean())
            return {**lacking(self.measures, "not_applicable", _NO_MASK), "l1_raw": whole}
        inside: Value = float(np.abs(difference[edited]).mean()) if edited.any() else NoValue("not_applicable", _NONE)
        if edited.all():
            return {**lacking(self.measures, "not_applicable", _ALL), "l1_inside": inside}
        outside = _errors(difference[~edited], "outside")
        return {
            "l1_raw": outside["l1_outside"],
            **outside,
            "ssim_outside": _ssim_outside(output, pair.source, edited),
            "l1_inside": inside,
        }


def _difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """(H, W, 3) float64, -1 to 1."""
    found: np.ndarray = (np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)) / 255.0
    return found


def _errors(difference: np.ndarray, of: str) -> dict[str, Value]:
    l2 = float(np.square(difference).mean())
    return {
        f"l1_{of}": float(np.abs(difference).mean()),
        f"l2_{of}": l2,
        f"psnr_{of}": -10 * float(np.log10(l2)) if l2 > 0 else NoValue("undefined", _EQUAL),
    }


def _ssim_outside(a: Image.Image, b: Image.Image, edited: np.ndarray) -> Value:
    found = ssim_map(luma(a), luma(b))
    if not found.size:
        return NoValue("undefined", _SMALL)
    outside = windows_outside(edited)
    return float(found[outside].mean()) if outside.any() else NoValue("not_applicable", _NO_WINDOW)
