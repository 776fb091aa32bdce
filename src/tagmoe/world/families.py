"""Families of editing tasks, and the conflict dial: how far the families' targets contradict each other.

In TagWorld one mapping serves nearly all tasks, so a mixture of experts has nothing to separate. With the dial at
alpha > 0 the latents of family k's targets are multiplied by exp(alpha A_k) on the channels of a token. References stay
as they are. So the same picture and the same words want other numbers in every family. Before a result is decoded, the
inverse is applied, so the judge sees pictures and its truth stays exact. At alpha = 0 nothing is changed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from tagmoe.errors import UsageError

FAMILIES: dict[str, tuple[str, ...]] = {
    "object": ("add", "remove", "replace", "move", "swap", "multi_remove"),
    "attribute": ("recolour", "retexture", "resize", "multi_recolour"),
    "person": ("expression", "wear", "take_off", "hair"),
    "scene": ("background", "pattern", "light", "relight", "viewpoint"),
    "style": ("style", "destyle"),
    "reference": ("subject", "style_ref", "structure"),
}
"""Families of editing tasks. The tasks of a family change the same kind of thing."""
SIDES: dict[str, tuple[str, ...]] = {
    "object": ("object",),
    "attribute": ("attribute", "person"),
    "look": ("scene", "style"),
    "reference": ("reference",),
}
"""The families that the dial sets against each other. They are four, as the paper's mixture has four experts."""
_SIDE_OF = {
    task: number for number, parts in enumerate(SIDES.values()) for family in parts for task in FAMILIES[family]
}


def side_of(task: str) -> int:
    """The number of a task's family in `SIDES`. Raises UsageError for a task that is no editing task."""
    if task not in _SIDE_OF:
        raise UsageError(f"The task {task!r} has no family; the families hold {', '.join(_SIDE_OF)}.")
    return _SIDE_OF[task]


@lru_cache(maxsize=64)
def rotation(side: int, channels: int, alpha: float) -> np.ndarray:
    """exp(alpha A_k), a (channels, channels) rotation in float64. The inverse is its transpose.

    A_k turns each of channels / 2 planes by its own angle; the angles lie evenly between 0 and pi, and the planes are
    random and different in every family. So the mean cosine between a vector and its image is sin(pi alpha) / pi alpha:
    0.90 at alpha 0.25, 0.64 at 0.5, 0 at 1. The cosine between two families' images of one vector is its square.
    Raises UsageError for an odd number of channels, or an alpha that is not between 0 and 1.
    """
    if channels < 2 or channels % 2 or not 0 <= alpha <= 1:
        raise UsageError(f"The dial got {channels} channels and alpha {alpha}; give an even number, and 0 to 1.")
    seed = int.from_bytes(hashlib.sha256(f"conflict dial, family {side}".encode()).digest()[:8], "big")
    planes, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))
    planes = planes * np.sign(np.diag(upper))  # one sign convention, whatever the library chose
    count = channels // 2
    angles = alpha * np.pi * (np.arange(count) + 0.5) / count
    turned = np.zeros((channels, channels))
    first, second = np.arange(0, channels, 2), np.arange(1, channels, 2)
    turned[first, first] = turned[second, second] = np.cos(angles)
    turned[second, first] = np.sin(angles)
    turned[first, second] = -np.sin(angles)
    result: np.ndarray = planes @ turned @ planes.T
    return result
