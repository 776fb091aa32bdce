"""Eq. 3: g by loops, from statistics and from scores alike, and its invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmoe.losses import routing_signature, routing_signature_from_scores


def scores(layers: int, batch: int, tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(layers, batch, tokens, experts, generator=generator), dim=-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_by_loops_both_ways_agree_and_rows_sum_to_one(
    layers: int, batch: int, tokens: int, experts: int, seed: int
) -> None:
    scores_LBTN = scores(layers, batch, tokens, experts, seed)
    signature = routing_signature(scores_LBTN.mean(dim=2))
    assert torch.allclose(signature, routing_signature_from_scores(scores_LBTN), atol=1e-6)
    assert torch.allclose(signature.sum(dim=-1), torch.ones(batch), atol=1e-5)
    for b in range(batch):
        for n in range(experts):
            total = sum(float(scores_LBTN[layer, b, t, n]) for t in range(tokens) for layer in range(layers))
            assert float(signature[b, n]) == pytest.approx(total / (tokens * layers), abs=1e-6)


def test_permuting_experts_permutes_it_and_token_order_is_free() -> None:
    scores_LBTN = scores(3, 2, 7, 4)
    signature = routing_signature_from_scores(scores_LBTN)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(routing_signature_from_scores(scores_LBTN[..., order]), signature[:, order], atol=1e-6)
    shuffled = scores_LBTN[:, :, torch.randperm(7)]
    assert torch.allclose(routing_signature_from_scores(shuffled), signature, atol=1e-6)


def test_gradient_is_shared_by_layers_and_samples_stay_apart() -> None:
    mean_probs = scores(4, 2, 1, 3).squeeze(2).requires_grad_()
    routing_signature(mean_probs)[0, 1].backward()
    expected = torch.zeros(4, 2, 3)
    expected[:, 0, 1] = 1 / 4
    assert torch.equal(mean_probs.grad, expected)  # type: ignore[arg-type]


def test_bf16_is_averaged_in_fp32() -> None:
    mean_probs = scores(4, 2, 1, 3).squeeze(2).bfloat16()
    assert routing_signature(mean_probs).dtype == torch.float32
    assert torch.equal(routing_signature(mean_probs), routing_signature(mean_probs.float()))
