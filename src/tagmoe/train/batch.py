"""A batch of training samples, its noise, and where a stage takes its batches from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tagmoe.config import LossConfig
from tagmoe.data.order.apportion import hash64
from tagmoe.losses.flow import sample_timesteps
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
    """Batches of one kind by number; batch k of size B holds the samples number k B to (k + 1) B - 1."""

    def draw(self, number: int) -> Batch:
        """Batch `number`: a pure function of the seed and the number."""
        ...


def draw_noise(target_BTC: Tensor, number: int, loss: LossConfig, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """The noise (B, T, C) and the time (B,) of the targets of batch `number`, in fp32.

    Each sample has its own generator, seeded by its number: the noise is the same however a large batch is cut into
    micro-batches and ranks. name: of the stage and the kind of batch.
    """
    generator = torch.Generator()
    noise_BTC, t_B = torch.empty(target_BTC.shape), torch.empty(len(target_BTC))
    for place in range(len(target_BTC)):
        generator.manual_seed(hash64(seed, name, number * len(target_BTC) + place))
        t_B[place] = sample_timesteps(
            1,
            density=loss.timestep_density,
            mean=loss.timestep_mean,
            std=loss.timestep_std,
            shift=loss.timestep_shift,
            generator=generator,
        )
        noise_BTC[place] = torch.randn(noise_BTC.shape[1:], generator=generator)
    return noise_BTC, t_B
