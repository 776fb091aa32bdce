"""How a frame looks by itself: blank, blurred; and whether a pair repeats an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tagmoe.factory.video.pairs import Pair

SHARP_SIDE = 768
"""Longer side in pixels at which blur is measured: smaller copies hide it."""
REBLUR = 9
"""Width in pixels of the blur that is added to measure the one that is there."""
THUMB = 16
"""Side of the grey copies by which repeated pairs are found."""
ALIKE_BITS = 10
"""Bits of the 64 of a perceptual hash in which the frames of a repeat may differ, before their copies are compared."""
FAR_SHARE = 0.98
"""Of the differences of two copies the one at this share counts: a repeat differs nowhere, a moved thing somewhere."""


def deviation(picture: np.ndarray) -> float:
    """Standard deviation of the grey levels of a picture (H, W, 3) uint8, 0 to 128."""
    return float(_grey(picture).std())


def blur(picture: np.ndarray) -> float:
    """How blurred a picture (H, W, 3) uint8 is, 0 to 1, by how little a further blur changes it (Crete et al. 2007).

    Unlike the variance of the Laplacian it hardly depends on how much there is to see.
    """
    import cv2

    grey = _grey(picture)
    scale = SHARP_SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    worst = 0.0
    for axis in (0, 1):
        size = (1, REBLUR) if axis == 0 else (REBLUR, 1)
        again = cv2.blur(grey, size)
        before, after = np.abs(np.diff(grey, axis=axis)), np.abs(np.diff(again, axis=axis))
        lost = np.maximum(0.0, before - after).sum()
        total = before.sum()
        worst = max(worst, float((total - lost) / total) if total else 1.0)
    return worst


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


@dataclass(frozen=True)
class Signature:
    """What a pair is recognised by. hashes: (2,) uint64 of the frames. thumbs: (2, THUMB, THUMB) uint8."""

    hashes: np.ndarray = field(repr=False)
    thumbs: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, pair: Pair) -> Signature:
        """The signature of a pair."""
        import cv2
        import imagehash
        from PIL import Image

        hashes, thumbs = [], []
        for still in (pair.first, pair.second):
            bits = imagehash.phash(Image.fromarray(still.pixels)).hash.ravel()
            hashes.append(int("".join("1" if bit else "0" for bit in bits), 2))
            thumbs.append(cv2.resize(_grey(still.pixels), (THUMB, THUMB), interpolation=cv2.INTER_AREA))
        return cls(np.array(hashes, np.uint64), np.stack(thumbs).round().clip(0, 255).astype(np.uint8))

    def text(self) -> str:
        """The signature as hexadecimal text."""
        return (self.hashes.astype(">u8").tobytes() + self.thumbs.tobytes()).hex()

    @classmethod
    def from_text(cls, text: str) -> Signature:
        """The signature of `text`. Raises ValueError for another text."""
        data = bytes.fromhex(text)
        if len(data) != 16 + 2 * THUMB**2:
            raise ValueError("no signature of a pair")
        thumbs = np.frombuffer(data[16:], np.uint8).reshape(2, THUMB, THUMB)
        return cls(np.frombuffer(data[:16], ">u8").astype(np.uint64), thumbs)


class Known:
    """The pairs that were kept: 528 bytes each."""

    def __init__(self) -> None:
        self._hashes = np.zeros((0, 2), np.uint64)
        self._thumbs: list[np.ndarray] = []
        self._count = 0

    def add(self, signature: Signature) -> None:
        """Remember a pair."""
        if self._count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros((max(64, self._count), 2), np.uint64)])
        self._hashes[self._count] = signature.hashes
        self._thumbs.append(signature.thumbs)
        self._count += 1

    def nearest(self, signature: Signature) -> float:
        """How far the nearest pair is in either direction, in grey levels, 0 to 255; 255 where none is near.

        Both directions of a pair are samples, so a pair that runs backwards is a repeat, too.
        """
        least = 255.0
        hashes = self._hashes[: self._count]
        for order in ((0, 1), (1, 0)):
            bits = np.bitwise_count(hashes ^ signature.hashes[list(order)])
            for row in np.flatnonzero((bits <= ALIKE_BITS).all(axis=1)):
                apart = np.abs(self._thumbs[row].astype(np.int16) - signature.thumbs[list(order)])
                ranked = np.sort(apart.reshape(2, -1), axis=1)
                least = min(least, float(ranked[:, int(FAR_SHARE * ranked.shape[1])].max()))
        return least
