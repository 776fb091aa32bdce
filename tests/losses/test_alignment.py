"""Eq. 4: the cosine by loops, its range, where its gradient goes, and the head's shape and keys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmoe.losses import PredictionHead, alignment_loss


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_formula_by_loops_and_range(batch: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(batch, dim, generator=generator)
    semantic = torch.randn(batch, dim, generator=generator)
    expected = 0.0
    for b in range(batch):
        p, s = predicted[b].tolist(), semantic[b].tolist()
        dot = sum(x * y for x, y in zip(p, s, strict=True))
        norms = math.sqrt(sum(x * x for x in p)) * math.sqrt(sum(y * y for y in s))
        expected += (1 - dot / norms) / batch
    loss = float(alignment_loss(predicted, semantic))
    assert loss == pytest.approx(expected, abs=1e-5)
    assert -1e-6 <= loss <= 2 + 1e-6


def test_zero_if_parallel_two_if_opposite_one_if_orthogonal() -> None:
    s = torch.tensor([[3.0, 4.0, 0.0]])
    assert float(alignment_loss(7 * s, s)) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(-0.1 * s, s)) == pytest.approx(2, abs=1e-6)
    assert float(alignment_loss(torch.tensor([[0.0, 0.0, 5.0]]), s)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("target_grad", [True, False])
def test_gradient_into_the_target_is_a_choice(target_grad: bool) -> None:
    predicted = torch.randn(3, 4, requires_grad=True)
    semantic = torch.randn(3, 4, requires_grad=True)
    alignment_loss(predicted, semantic, target_grad=target_grad).backward()
    assert bool(predicted.grad.any())  # type: ignore[union-attr]
    assert (semantic.grad is not None) == target_grad


def test_a_sample_without_tags_counts_one_and_moves_nothing() -> None:
    predicted = torch.randn(1, 4, requires_grad=True)
    loss = alignment_loss(predicted, torch.zeros(1, 4))
    loss.backward()
    assert loss.item() == 1
    assert torch.equal(predicted.grad, torch.zeros(1, 4))  # type: ignore[arg-type]


def test_bf16_under_autocast_is_computed_in_fp32() -> None:
    head = PredictionHead(4, 16)
    signature = torch.softmax(torch.randn(3, 4), dim=-1)
    semantic = torch.randn(3, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = head(signature)
        loss = alignment_loss(predicted.bfloat16(), semantic)
    assert predicted.dtype == loss.dtype == torch.float32
    assert torch.equal(predicted, head(signature))
    expected = alignment_loss(predicted.bfloat16().float(), semantic.float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("layers", "linears"), [(2, [0, 2]), (3, [0, 2, 4])])
def test_head_has_the_papers_or_the_releases_layers_and_keys(layers: int, linears: list[int]) -> None:
    head = PredictionHead(4, 512, num_layers=layers)  # type: ignore[arg-type]
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    assert set(shapes) == {f"net.{i}.{kind}" for i in linears for kind in ("weight", "bias")}
    assert shapes["net.0.weight"] == (256, 4)
    assert shapes[f"net.{linears[-1]}.weight"] == (512, 256)
    assert head(torch.full((5, 4), 0.25)).shape == (5, 512)
