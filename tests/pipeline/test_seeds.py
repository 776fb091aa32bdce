"""Every random number of a call comes from its generators, also those of a stochastic scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from support.tiny_model import build_pipeline

SCHEDULERS = {
    "LCM": FlowMatchLCMScheduler(shift=1.0),
    "Euler, stochastic": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "Euler": FlowMatchEulerDiscreteScheduler(),
}


def tokens(pipe: Any, seed: int | list[int], **options: Any) -> torch.Tensor:
    return pipe("remove the green triangle", seed=seed, output_type="latent", **options).images


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_seed_gives_one_picture(name) -> None:
    pipe = build_pipeline(scheduler=SCHEDULERS[name])
    state = torch.get_rng_state()
    first = tokens(pipe, 3)
    assert torch.equal(torch.get_rng_state(), state), "the process's own numbers are left alone"
    torch.manual_seed(99)
    assert torch.equal(tokens(pipe, 3), first)
    assert not torch.equal(tokens(pipe, 4), first)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", SCHEDULERS)
def test_in_a_batch_it_is_the_same_picture(name) -> None:
    pipe = build_pipeline(scheduler=SCHEDULERS[name])
    batch = tokens(pipe, [3, 8], num_images_per_prompt=2)
    for row, seed in enumerate((3, 8)):
        torch.testing.assert_close(batch[row : row + 1], tokens(pipe, seed), atol=2e-5, rtol=2e-5)
