"""Activation checkpointing: the same gradients to the bit, and never another expert in backward than in forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tagmoe.model import moe
from tagmoe.model.recompute import recompute_blocks
from tagmoe.model.transformer import TagMoETransformer2DModel

Build = Callable[..., TagMoETransformer2DModel]


def trained_once(model: TagMoETransformer2DModel, inputs: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """(routing, gradients) of a loss of the picture and of both router statistics."""
    output = model(**inputs, return_routing="stats")
    loss = output.sample.square().mean() + output.routing.mean_probs_LBN.square().sum()
    loss.backward()
    return output.routing, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_and_counts_are_the_same_to_the_bit(build: Build, inputs: dict[str, Any], top_k: int) -> None:
    routing, expected = trained_once(build(top_k=top_k).train(), inputs)
    model = build(top_k=top_k).train()
    recompute_blocks(model)
    again, found = trained_once(model, inputs)
    assert torch.equal(again.counts_LBN, routing.counts_LBN)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def tied(model: TagMoETransformer2DModel) -> list[int]:
    """Make every token a tie in every gate. Each call of a gate breaks the ties anew; returns a list of its calls."""
    calls: list[int] = []

    def shaken(_gate: Any, _inputs: Any, scores_TN: Tensor) -> Tensor:
        calls.append(len(calls))
        noise = torch.rand(scores_TN.shape, generator=torch.Generator().manual_seed(len(calls)))
        return scores_TN + 1e-7 * noise

    for name, module in model.named_modules():
        if name.endswith(".gate"):
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
            module.register_forward_hook(shaken)
    return calls


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_recompute_that_breaks_ties_otherwise_keeps_the_experts_of_forward(
    build: Build, inputs: dict[str, Any], top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, chosen = moe.experts_sorted, []

    def seen(x_TD: Tensor, experts: Any, ids_TA: Tensor, *rest: Any) -> Tensor:
        chosen.append(ids_TA.clone())
        return original(x_TD, experts, ids_TA, *rest)

    monkeypatch.setattr(moe, "experts_sorted", seen)
    plain = build(top_k=top_k).train()
    tied(plain)
    _, expected = trained_once(plain, inputs)
    forward = list(chosen)
    chosen.clear()
    model = build(top_k=top_k).train()
    calls = tied(model)
    recompute_blocks(model)
    _, found = trained_once(model, inputs)
    assert len(calls) == 4, "two mixtures, each computed twice"
    assert not torch.equal(forward[0], forward[1]), "the ties are broken at random"
    # Backward comes to the last mixture first.
    assert all(torch.equal(a, b) for a, b in zip(chosen, [*forward, *reversed(forward)], strict=True))
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name} {text}"
        )


def test_plain_checkpointing_would_choose_other_experts(build: Build, inputs: dict[str, Any]) -> None:
    """What the test above would not see if its ties were none."""
    plain = build().train()
    tied(plain)
    _, expected = trained_once(plain, inputs)
    model = build().train()
    tied(model)
    model.enable_gradient_checkpointing()
    try:
        _, found = trained_once(model, inputs)
    except torch.utils.checkpoint.CheckpointError:
        return
    experts = [name for name in expected if ".experts." in name]
    assert any(not torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-5) for name in experts)
