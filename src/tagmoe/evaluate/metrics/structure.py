"""SSIM (Wang et al. 2004): on the luma of YIQ, rounded to whole numbers of 0..255, with an 11x11 Gaussian window of
sigma 1.5 that lies wholly in the picture. pyiqa, the evaluator of ICE-Bench, does so too, and clips at zero.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

WINDOW, SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMA = (0.299, 0.587, 0.114)


def luma(picture: Image.Image) -> np.ndarray:
    """(H, W) float64, 0..255, rounded."""
    found: np.ndarray = np.round(np.asarray(picture, dtype=np.float64) @ np.array(_LUMA))
    return found


def ssim_map(a: np.ndarray, b: np.ndarray, *, clipped: bool = False) -> np.ndarray:
    """SSIM at every window of two lumas (H, W): (H - 10, W - 10). A side below 11 gives an empty map.

    clipped: windows whose structures are opposite count as 0 instead of less, as in pyiqa.
    """
    if min(a.shape) < WINDOW:
        return np.empty((0, 0))
    mean_a, mean_b = _windows(a), _windows(b)
    variance_a, variance_b = _windows(a * a) - mean_a**2, _windows(b * b) - mean_b**2
    covariance = _windows(a * b) - mean_a * mean_b
    shape = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    if clipped:
        shape = np.maximum(shape, 0.0)
    found: np.ndarray = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1) * shape
    return found


def windows_outside(edited: np.ndarray) -> np.ndarray:
    """(H - 10, W - 10) bool: the windows that hold no pixel of a mask (H, W)."""
    from scipy.ndimage import maximum_filter

    edge = WINDOW // 2
    touched = maximum_filter(edited, size=WINDOW, mode="constant", cval=False)
    found: np.ndarray = ~touched[edge:-edge, edge:-edge]
    return found


def _windows(values: np.ndarray) -> np.ndarray:
    """The Gaussian mean of every window."""
    from scipy.ndimage import correlate1d

    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    edge = WINDOW // 2
    rows = correlate1d(values, weights, axis=0, mode="constant")[edge:-edge]
    found: np.ndarray = correlate1d(rows, weights, axis=1, mode="constant")[:, edge:-edge]
    return found
