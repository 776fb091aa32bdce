"""L_lbl: the formula by loops, its value at uniform use and at collapse, and global counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmoe.losses import balance_loss, expert_load


def routing(layers: int, batch: int, experts: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean probabilities and top-1 counts of random scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.softmax(2 * torch.randn(layers, batch, tokens, experts, generator=generator), dim=-1)
    counts = torch.nn.functional.one_hot(scores.argmax(dim=-1), experts).sum(dim=2)
    return scores.mean(dim=2), counts


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(0, 99))
def test_formula_by_loops(layers: int, batch: int, experts: int, tokens: int, seed: int) -> None:
    probs, counts = routing(layers, batch, experts, tokens, seed)
    expected = 0.0
    for layer in range(layers):
        for i in range(experts):
            share = sum(int(counts[layer, b, i]) for b in range(batch)) / (batch * tokens)
            mean = sum(float(probs[layer, b, i]) for b in range(batch)) / batch
            expected += experts * share * mean / layers
    assert float(balance_loss(probs, counts)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("experts", [2, 4, 7])
def test_one_at_uniform_and_n_at_collapse(experts: int) -> None:
    uniform = torch.full((2, 3, experts), 1 / experts)
    assert float(balance_loss(uniform, torch.full((2, 3, experts), 6))) == pytest.approx(1)
    collapsed = torch.zeros(2, 3, experts)
    collapsed[..., 1] = 1
    assert float(balance_loss(collapsed, 6 * collapsed)) == pytest.approx(experts)


def test_layers_that_each_collapse_on_another_expert_are_not_balanced() -> None:
    probs = torch.eye(4).unsqueeze(1)
    assert float(balance_loss(probs, 8 * probs)) == pytest.approx(4)


def test_permuting_experts_changes_nothing() -> None:
    probs, counts = routing(3, 4, 5, 6, seed=1)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert float(balance_loss(probs[..., order], counts[..., order])) == pytest.approx(
        float(balance_loss(probs, counts)), rel=1e-6
    )


def test_a_long_sample_weighs_no_more_than_a_short_one() -> None:
    probs, counts = routing(2, 2, 3, 6, seed=2)
    longer = counts.clone()
    longer[:, 1] *= 10
    assert float(balance_loss(probs, longer)) == pytest.approx(float(balance_loss(probs, counts)), rel=1e-6)
    assert torch.allclose(expert_load(counts).sum(dim=-1), torch.tensor(2.0))


def test_micro_batches_with_global_counts_equal_the_large_batch() -> None:
    probs, counts = routing(3, 8, 4, 5, seed=3)
    whole = probs.clone().requires_grad_()
    balance_loss(whole, counts).backward()
    parts = probs.clone().requires_grad_()
    load = sum(expert_load(counts[:, i : i + 2]) for i in range(0, 8, 2))
    losses = [
        balance_loss(parts[:, i : i + 2], counts[:, i : i + 2], global_counts_LN=load) / 4  # type: ignore[arg-type]
        for i in range(0, 8, 2)
    ]
    torch.stack(losses).sum().backward()
    assert sum(loss.item() for loss in losses) == pytest.approx(balance_loss(probs, counts).item(), rel=1e-6)
    assert torch.allclose(parts.grad, whole.grad, atol=1e-7)  # type: ignore[arg-type]


def test_micro_batches_with_their_own_counts_do_not() -> None:
    probs, counts = routing(3, 8, 4, 5, seed=3)
    own = sum(float(balance_loss(probs[:, i : i + 2], counts[:, i : i + 2])) for i in range(0, 8, 2)) / 4
    assert own > float(balance_loss(probs, counts)) + 0.01


def test_gradient_reaches_the_probabilities_and_pushes_load_away() -> None:
    probs = torch.full((1, 2, 4), 0.25, requires_grad=True)
    counts = torch.tensor([[[8, 0, 0, 0], [8, 0, 0, 0]]]).float().requires_grad_()
    balance_loss(probs, counts).backward()
    assert counts.grad is None
    assert float(probs.grad[0, 0, 0]) > 0  # type: ignore[index]
    assert torch.equal(probs.grad[..., 1:], torch.zeros(1, 2, 3))  # type: ignore[index]


def test_bf16_under_autocast_is_computed_in_fp32() -> None:
    probs, counts = routing(2, 4, 4, 16, seed=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = balance_loss(probs.bfloat16(), counts)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(balance_loss(probs.bfloat16().float(), counts)), rel=1e-6)
