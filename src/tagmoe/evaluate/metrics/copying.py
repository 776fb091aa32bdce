"""Whether the output is the source again: doing nothing keeps everything, and scores well where only that is asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tagmoe.evaluate.metrics.metric import Measure, Pair, Value, lacking

BLOCK = 8
LEVELS = 4.0
"""A block of 8x8 pixels has changed when the mean of one of its colours did by more than this, of 255. Means, because
single pixels differ after every autoencoder and JPEG. Of 840 true edits of TagWorld all change more; a picture of
noise at JPEG quality 95 changes in no block, at 75 in 4 %. [ours]"""
LEAST_SHARE = 0.001
"""An output with fewer changed blocks is a near-copy of its source: 16 of a picture of a megapixel. [ours]"""


class NearCopy:
    """The share of the picture that changed, and whether nearly none did."""

    name = "copying"
    version = 1
    measures = (
        Measure("changed", "neither", "share of blocks of 8x8 pixels that changed", kind="share"),
        Measure("near_copy", "lower", f"fewer than {LEAST_SHARE:.1%} of the blocks changed", kind="outcome"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The two values; not applicable without a source that is to be edited."""
        if pair.source is None or "control" in pair.case.meta:
            return lacking(self.measures, "not_applicable", "the case has no source that is to be edited")
        changed = share_changed(np.asarray(pair.source), np.asarray(pair.beside(pair.source, "source")))
        return {"changed": changed, "near_copy": float(changed < LEAST_SHARE)}


def share_changed(a: np.ndarray, b: np.ndarray) -> float:
    """Of uint8 (H, W, 3), 0 to 1; blocks that the right and lower borders cut are filled up with what is equal."""
    difference = a.astype(np.float32) - b.astype(np.float32)
    height, width = difference.shape[:2]
    difference = np.pad(difference, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)))
    rows, columns = difference.shape[0] // BLOCK, difference.shape[1] // BLOCK
    means = difference.reshape(rows, BLOCK, columns, BLOCK, 3).mean(axis=(1, 3))
    return float((np.abs(means).max(axis=2) > LEVELS).mean())
