"""A batch of training samples, and where a stage takes them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from tagmoe.world import Sample


@dataclass(frozen=True)
class Batch:
    """B samples of one bucket, that is, with the same number of references of the same sizes.

    samples: those of the stream, or the ids of records.
    target_BTC and reference_BTC (all references in order, None without): packed, normalised latents. text_BSD with
    mask_BS. tags_BK: zeros and ones. edited_BT: True where the edit may change the picture. grids: (rows, columns) of
    the tokens of the target, then of each reference.
    """

    samples: Sequence[Sample] | Sequence[str]
    target_BTC: Tensor
    reference_BTC: Tensor | None
    text_BSD: Tensor
    mask_BS: Tensor
    tags_BK: Tensor
    edited_BT: Tensor
    grids: tuple[tuple[int, int], ...]


class Samples(Protocol):
    """Where a stage takes its batches from."""

    def draw(self, start: int, count: int, random: np.random.Generator) -> Batch:
        """Samples number start to start + count - 1, a whole batch. `random` is the micro-batch's own."""
        ...
