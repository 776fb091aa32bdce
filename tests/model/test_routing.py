"""Routing leaves the model as data: statistics, traces, pictures."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from tagmoe.errors import UsageError
from tagmoe.model.routing import RouterStats, token_grids


@pytest.mark.parametrize("top_k", [1, 2])
def test_stats_equal_the_stats_of_the_full_trace(build, inputs, top_k):
    model = build(top_k=top_k)
    stats = model(**inputs, return_routing="stats").routing
    trace = model(**inputs, return_routing="full").routing
    torch.testing.assert_close(trace.stats().mean_probs_LBN, stats.mean_probs_LBN)
    assert torch.equal(trace.stats().counts_LBN, stats.counts_LBN)
    assert stats.mean_probs_LBN.shape == (2, 2, 4)
    assert stats.mean_probs_LBN.dtype == torch.float32
    assert stats.mean_probs_LBN.requires_grad
    torch.testing.assert_close(stats.mean_probs_LBN.sum(-1), torch.ones(2, 2))
    assert (stats.counts_LBN.sum(-1) == 23 * top_k).all()


def test_statistics_stay_fp32_under_autocast(build, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        stats = build()(**inputs, return_routing="stats").routing
    assert stats.mean_probs_LBN.dtype == torch.float32


def test_asking_for_routing_does_not_change_the_sample(build, inputs):
    model = build()
    plain = model(**inputs).sample
    for routing in ("stats", "full"):
        assert torch.equal(model(**inputs, return_routing=routing).sample, plain)
        sample, given = model(**inputs, return_routing=routing, return_dict=False)
        assert torch.equal(sample, plain)
        assert given is not None


def test_trace_shows_each_image_as_a_picture(build, inputs):
    trace = build()(**inputs, return_routing="full").routing
    assert trace.grids == ((1, 3, 5), (1, 2, 4))
    assert trace.image(0).shape == (2, 2, 3, 5, 4)
    assert trace.image(1).shape == (2, 2, 2, 4, 4)
    assert torch.equal(trace.image(0)[:, :, 1, 2], trace.scores_LBTN[:, :, 7])
    assert torch.equal(trace.image(1)[:, :, 1, 3], trace.scores_LBTN[:, :, 22])
    with pytest.raises(UsageError, match="Image 2"):
        trace.image(2)


def test_utilisation_is_the_share_of_first_choices(build, inputs):
    trace = build(top_k=2)(**inputs, return_routing="full").routing
    shares = [trace.utilisation(), trace.utilisation(0), trace.utilisation(1)]
    for share in shares:
        torch.testing.assert_close(share.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(shares[0], (shares[1] * 15 + shares[2] * 8) / 23)
    torch.testing.assert_close(shares[1], one_hot_mean(trace.image(0)))


def one_hot_mean(scores_LBhwN: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(scores_LBhwN.argmax(-1), 4).float().mean((2, 3))


def test_stats_are_a_pytree_that_data_parallel_wrappers_can_walk():
    stats = RouterStats(mean_probs_LBN=torch.rand(1, 2, 4), counts_LBN=torch.ones(1, 2, 4))
    leaves, spec = pytree.tree_flatten(stats)
    again = pytree.tree_unflatten(leaves, spec)
    assert len(leaves) == 2
    assert torch.equal(again.mean_probs_LBN, stats.mean_probs_LBN)


def test_grids_read_both_forms_of_img_shapes():
    assert token_grids([(1, 4, 6)]) == ((1, 4, 6),)
    assert token_grids([[(1, 4, 6), (1, 2, 2)]] * 3) == ((1, 4, 6), (1, 2, 2))
