"""A batch of training samples, its noise, and the protocol of a source of batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from tagmoe.config import LossConfig
from tagmoe.data.order.apportion import hash64
from tagmoe.losses.flow import sample_timesteps
from tagmoe.train.facts import Facts


@dataclass(frozen=True)
class Batch:
    """B samples of one bucket: they have the same number of references of the same sizes.

    samples: facts of TagWorld's samples, or ids of records. target_BTC: packed, normalised latents of the target.
    reference_BTC: those of all references in order; None without references. text_BSD, mask_BS: text embeddings and
    their mask. tags_BK: zeros and ones. edited_BT: True where the edit may change the picture. grids: (rows, columns)
    of tokens of the target, then of each reference. share: B as a share of a full batch; its gradient counts by it.
    numbers: of the samples. skipped: what was wrong with those that could not be read, which are not among the B; each
    one is a sentence without its end.
    """

    samples: Sequence[Facts] | Sequence[str]
    target_BTC: Tensor
    reference_BTC: Tensor | None
    text_BSD: Tensor
    mask_BS: Tensor
    tags_BK: Tensor
    edited_BT: Tensor
    grids: tuple[tuple[int, int], ...]
    share: float = 1.0
    numbers: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on this device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]


class Samples(Protocol):
    """Numbered batches of one kind. Batch k of size B holds the samples k B to (k + 1) B - 1."""

    def draw(self, number: int, *, rank: int = 0, count: int = 1) -> Batch:
        """The part of one of `count` ranks in batch `number`: a pure function of the seed and the numbers."""
        ...


def draw_noise(
    target_BTC: Tensor,
    numbers: Iterable[int],
    loss: LossConfig,
    *,
    seed: int,
    name: str,
    shift: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The noise (B, T, C) and the time (B,) of the targets of samples `numbers`, in fp32.

    Each sample has its own generator, seeded by its number. So the noise does not depend on how a large batch is split
    into micro-batches and ranks. name: the stage and the kind of batch, which also seed the noise.
    shift: of the times, in place of `loss.timestep_shift`.
    """
    generator = torch.Generator()
    noise_BTC, t_B = torch.empty(target_BTC.shape), torch.empty(len(target_BTC))
    for place, number in enumerate(numbers):
        generator.manual_seed(hash64(seed, name, number))
        t_B[place] = sample_timesteps(
            1,
            density=loss.timestep_density,
            mean=loss.timestep_mean,
            std=loss.timestep_std,
            shift=loss.timestep_shift if shift is None else shift,
            generator=generator,
        )
        noise_BTC[place] = torch.randn(noise_BTC.shape[1:], generator=generator)
    return noise_BTC, t_B
