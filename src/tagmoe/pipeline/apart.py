"""Convolutions over a batch in which the bits of a sample do not depend on the others, on a CPU with its threads fixed.

Libraries choose the kernel of a convolution by the batch: one sample takes another than two, and very many may take yet
another. Which sizes agree differs between processors, so it is tried once for each shape, and never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

MOST = 8
"""Samples of one call where batches of 2 to 8 agree."""
MOST_PIXELS = 256 * 256
"""Larger pictures go one at a time: a batch gains nothing there, and trying would cost seconds."""


class SamplesApart:
    """Runs functions of a batch (B, ...) -> (B, ...). tried: whether batches of 2 to 8 agree, by function and shape."""

    def __init__(self) -> None:
        self.tried: dict[Hashable, bool] = {}

    def run(
        self, name: str, function: Callable[[torch.Tensor], torch.Tensor], samples_BCHW: torch.Tensor, pixels: int
    ) -> torch.Tensor:
        """The results of all samples, each the same to the bit in any batch, also alone.

        name: of the function. pixels: of the picture of a sample.
        """
        # The order of the axes in memory chooses the kernel too, and slices of a batch may have another than its whole.
        samples = samples_BCHW.contiguous()
        if pixels > MOST_PIXELS or not self._agrees(name, function, samples):
            return torch.cat([function(one) for one in samples.split(1)])
        return torch.cat([_of_two_or_more(function, part) for part in samples.split(MOST)])

    def _agrees(self, name: str, function: Callable[[torch.Tensor], torch.Tensor], samples: torch.Tensor) -> bool:
        """Whether each sample gets the same bits in batches of 2 to 8, at any place: tried on noise."""
        key = (name, samples.shape[1:], samples.dtype)
        if key not in self.tried:
            generator = torch.Generator().manual_seed(0)
            shape = (MOST, *samples.shape[1:])
            noise = torch.randn(shape, generator=generator).to(samples.device, samples.dtype).clamp(-1, 1)
            whole = function(noise)
            turned = function(noise.flip(0)).flip(0)
            parts = [
                torch.cat([function(part) for part in noise.split(size) if len(part) > 1]) for size in (2, 3, 5, 7)
            ]
            self.tried[key] = torch.equal(whole, turned) and all(torch.equal(whole[: len(p)], p) for p in parts)
        return self.tried[key]


def _of_two_or_more(function: Callable[[torch.Tensor], torch.Tensor], samples: torch.Tensor) -> torch.Tensor:
    return function(samples.repeat(2, *[1] * (samples.ndim - 1)))[:1] if len(samples) == 1 else function(samples)
