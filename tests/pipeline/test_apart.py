"""Batches of convolutions whose samples do not depend on each other: by trial, and one at a time where that fails."""

from __future__ import annotations

import torch

from tagmoe.pipeline.apart import MOST, SamplesApart

SAMPLES = torch.randn(11, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_sizes_that_agree_go_together_and_one_is_filled_up() -> None:
    sizes: list[int] = []

    def plain(samples: torch.Tensor) -> torch.Tensor:
        sizes.append(len(samples))
        return 2 * samples

    apart = SamplesApart()
    assert torch.equal(apart.run("plain", plain, SAMPLES, 16), 2 * SAMPLES)
    assert sizes[-2:] == [MOST, 3]
    sizes.clear()
    # Tried once for a shape; a sample alone takes the kernel of two.
    assert torch.equal(apart.run("plain", plain, SAMPLES[:1], 16), 2 * SAMPLES[:1])
    assert sizes == [2]


def test_a_function_that_mixes_samples_or_sizes_gets_one_at_a_time() -> None:
    def by_size(samples: torch.Tensor) -> torch.Tensor:
        return samples * (1 + 1e-7 * (len(samples) > 4))

    def by_place(samples: torch.Tensor) -> torch.Tensor:
        return samples + 1e-3 * torch.arange(len(samples)).view(-1, 1, 1, 1)

    def by_others(samples: torch.Tensor) -> torch.Tensor:
        return samples - samples.mean(dim=0, keepdim=True)

    for function in (by_size, by_place, by_others):
        apart = SamplesApart()
        alone = torch.cat([function(one) for one in SAMPLES.split(1)])
        assert torch.equal(apart.run("mixing", function, SAMPLES, 16), alone)
        assert list(apart.tried.values()) == [False]


def test_large_pictures_go_one_at_a_time() -> None:
    sizes: list[int] = []

    def plain(samples: torch.Tensor) -> torch.Tensor:
        sizes.append(len(samples))
        return samples

    SamplesApart().run("plain", plain, SAMPLES[:2], 1 << 20)
    assert sizes == [1, 1]
