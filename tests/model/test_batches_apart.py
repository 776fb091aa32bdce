"""A transformer whose samples are kept apart: the bits of one alone in any batch, and the numbers of any other."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from tagmoe.model.cpu.batches import keep_samples_apart
from tagmoe.model.transformer import TagMoETransformer2DModel

SHAPE = {
    "in_channels": 16, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6), "num_moe_blocks": 2,
}  # fmt: skip


def given(batch: int, times: list[float]) -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(8, 32, 16, generator=drawn)[:batch],
        "encoder_hidden_states": torch.randn(8, 7, 32, generator=drawn)[:batch],
        "timestep": torch.tensor((times * 8)[:batch]),
        "img_shapes": [[(1, 4, 4), (1, 4, 4)]] * batch,
    }


@pytest.mark.parametrize("times", [[0.3], [0.3, 0.8]], ids=["one time", "two times"])
@pytest.mark.parametrize("changes", [{}, {"zero_cond_t": True}, {"gate": "text"}], ids=["plain", "zero", "text gate"])
@torch.no_grad()
def test_a_sample_has_its_bits_in_any_batch(changes: dict[str, Any], times: list[float]) -> None:
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TagMoETransformer2DModel(**SHAPE, **changes).eval()
    apart = deepcopy(model)
    assert keep_samples_apart(apart)
    assert keep_samples_apart(apart), "and again"
    alone = apart(**given(1, times)).sample
    for batch in (2, 3, 8):
        mine = apart(**given(batch, times)).sample
        assert torch.equal(mine[:1], alone)
        torch.testing.assert_close(mine, model(**given(batch, times)).sample)


@torch.no_grad()
def test_samples_of_one_time_are_embedded_once() -> None:
    apart = TagMoETransformer2DModel(**SHAPE).eval()
    assert keep_samples_apart(apart)
    rows: list[int] = []
    apart.transformer_blocks[0].img_mod.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    for times in ([0.3], [0.3, 0.8]):
        apart(**given(4, times))
    assert rows == [1, 4]
