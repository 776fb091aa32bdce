"""L1, L2, PSNR and SSIM to the target and to the source: of the whole picture, and outside the mask.

`l1_raw` is ICE-Bench's own: the mean absolute difference to the source, outside the mask where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from tagmoe.evaluate.metrics.metric import Better, Measure, NoValue, Pair, Value, lacking
from tagmoe.evaluate.metrics.structure import luma, ssim_map, windows_outside

_NO_TARGET = "the benchmark has no target"
_NO_SOURCE = "the case has no source"
_NO_MASK = "the case has no mask"
_ALL = "the mask is the whole picture"
_NONE = "the mask is empty"
_EQUAL = "the pictures are equal, so that PSNR is infinite"
_SMALL = "the pictures are smaller than SSIM's window of 11 pixels"
_NO_WINDOW = "no window of SSIM lies outside the mask"


def _measures(of: str, where: str, *, is_goal: bool = True) -> tuple[Measure, ...]:
    """The four of a comparison. of: the end of their names. where: what is compared, as the end of a sentence.
    is_goal: whether the output should be like that."""
    less: Better
    more: Better
    less, more = ("lower", "higher") if is_goal else ("neither", "neither")
    return (
        Measure(f"l1_{of}", less, f"mean absolute difference {where}", 4),
        Measure(f"l2_{of}", less, f"mean squared difference {where}", 4),
        Measure(f"psnr_{of}", more, f"PSNR {where}, dB", 2),
        Measure(f"ssim_{of}", more, f"SSIM {where}"),
    )


class TargetDifference:
    """How far the output is from the right answer, pixel by pixel. Colours are 0 to 1."""

    name = "target"
    version = 2
    measures = (
        *_measures("target", "to the target"),
        *_measures("target_outside", "to the target outside the mask"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The eight values; not applicable without a target, those of the mask without a mask."""
        if pair.target is None:
            return lacking(self.measures, "not_applicable", _NO_TARGET)
        output, edited = pair.beside(pair.target, "target"), pair.edited(pair.target)
        compared = _Compared(output, pair.target)
        return {**compared.whole("target"), **compared.outside("target_outside", edited)}


class SourceDifference:
    """How much of the source changed: everywhere, outside and inside the mask. Colours are 0 to 1."""

    name = "source"
    version = 2
    measures = (
        Measure("l1_raw", "lower", "mean absolute difference to the source, outside the mask if any (ICE-Bench)", 4),
        # An edit must change the source, so that being the most like it is no merit.
        *_measures("source", "to the source", is_goal=False),
        *_measures("outside", "to the source outside the mask"),
        Measure("l1_inside", "neither", "mean absolute difference to the source inside the mask", 4),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The ten values; not applicable without a source that is to be kept, those of the mask without a mask."""
        if pair.source is None:
            return lacking(self.measures, "not_applicable", _NO_SOURCE)
        if "control" in pair.case.meta:
            return lacking(self.measures, "not_applicable", "the source is a control picture and is not to be kept")
        output, edited = pair.beside(pair.source, "source"), pair.edited(pair.source)
        compared = _Compared(output, pair.source)
        whole, outside = compared.whole("source"), compared.outside("outside", edited)
        return {
            "l1_raw": whole["l1_source"] if edited is None else outside["l1_outside"],
            **whole,
            **outside,
            "l1_inside": compared.inside(edited),
        }


class _Compared:
    """Two pictures of one size."""

    def __init__(self, output: Image.Image, other: Image.Image) -> None:
        self._difference = _difference(output, other)
        self._ssim = ssim_map(luma(output), luma(other))

    def whole(self, of: str) -> dict[str, Value]:
        """The four values of the whole picture."""
        structure: Value = float(self._ssim.mean()) if self._ssim.size else NoValue("undefined", _SMALL)
        return {**_errors(self._difference, of), f"ssim_{of}": structure}

    def outside(self, of: str, edited: np.ndarray | None) -> dict[str, Value]:
        """The four values of the pixels outside a mask; of SSIM those of the windows without any pixel of it."""
        if edited is None or edited.all():
            return lacking(_measures(of, ""), "not_applicable", _NO_MASK if edited is None else _ALL)
        return {**_errors(self._difference[~edited], of), f"ssim_{of}": self._ssim_outside(edited)}

    def inside(self, edited: np.ndarray | None) -> Value:
        """The mean absolute difference inside a mask."""
        if edited is None or not edited.any():
            return NoValue("not_applicable", _NO_MASK if edited is None else _NONE)
        return float(np.abs(self._difference[edited]).mean())

    def _ssim_outside(self, edited: np.ndarray) -> Value:
        if not self._ssim.size:
            return NoValue("undefined", _SMALL)
        outside = windows_outside(edited)
        return float(self._ssim[outside].mean()) if outside.any() else NoValue("not_applicable", _NO_WINDOW)


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
