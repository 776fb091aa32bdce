"""Eq. 5: the weighted sum, what a zero lambda or a dense model switches off, and where gradients go."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tagmoe.errors import ConfigError
from tagmoe.losses import (
    LossTerms,
    Objective,
    alignment_loss,
    balance_loss,
    expert_load,
    flow_loss,
    routing_signature,
)
from tagmoe.tags import TaskDescriptor

BATCH, LAYERS, EXPERTS, DIM = 4, 3, 4, 24


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, BATCH, EXPERTS, generator=generator)
    tags = [
        TaskDescriptor.from_tags(names).multi_hot()
        for names in (
            ["image generation"],
            ["local editing", "object editing", "identity preservation"],
            ["global editing", "style transfer", "structure preservation"],
            ["content customization", "background editing", "identity preservation"],
        )
    ]
    return {
        "prediction": torch.randn(BATCH, 6, 5, generator=generator),
        "x0": torch.randn(BATCH, 6, 5, generator=generator),
        "noise": torch.randn(BATCH, 6, 5, generator=generator),
        "tags_BK": torch.tensor(tags),
        "mean_probs_LBN": torch.softmax(logits, dim=-1),
        "counts_LBN": torch.randint(1, 20, (LAYERS, BATCH, EXPERTS), generator=generator),
    }


def objective(**settings: Any) -> Objective:
    torch.manual_seed(0)
    return Objective(EXPERTS, DIM, **settings)


def report(terms: LossTerms) -> dict[str, float]:
    return {name: float(value) for name, value in vars(terms).items()}


def test_total_is_the_weighted_sum_of_the_equations() -> None:
    data, goal = batch(), objective(lambda_lbl=0.3, lambda_align=0.7)
    terms = goal(**data)
    flow = flow_loss(data["prediction"], data["x0"], data["noise"])
    balance = balance_loss(data["mean_probs_LBN"], data["counts_LBN"])
    signature = routing_signature(data["mean_probs_LBN"])
    align = alignment_loss(goal.router_head(signature), goal.tag_embedding(data["tags_BK"]))
    assert terms.total.item() == pytest.approx((flow + 0.3 * balance + 0.7 * align).item(), rel=1e-6)
    assert report(terms) == pytest.approx(
        {"total": terms.total.item(), "flow": flow.item(), "balance": balance.item(), "alignment": align.item()}
    )


def test_the_defaults_are_the_documented_lambdas() -> None:
    terms = objective()(**batch())
    expected = terms.flow + 0.01 * terms.balance + 0.1 * terms.alignment
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_dense_model_has_flow_alone() -> None:
    data, goal = batch(), objective()
    del data["mean_probs_LBN"], data["counts_LBN"]
    data["prediction"].requires_grad_()
    terms = goal(**data)
    assert torch.equal(terms.total, terms.flow)
    assert report(terms)["balance"] == report(terms)["alignment"] == 0
    terms.total.backward()
    assert all(parameter.grad is None for parameter in goal.parameters())


@pytest.mark.parametrize(("off", "still"), [("lambda_lbl", "alignment"), ("lambda_align", "balance")])
def test_lambda_zero_switches_its_term_off(off: str, still: str) -> None:
    data, goal = batch(), objective(**{off: 0.0})
    data["mean_probs_LBN"].requires_grad_()
    terms = goal(**data)
    switched = "balance" if off == "lambda_lbl" else "alignment"
    assert report(terms)[switched] == 0
    assert report(terms)[still] > 0
    terms.total.backward()
    assert (goal.tag_embedding.weight.grad is not None) == (off == "lambda_lbl")


def test_both_auxiliary_terms_reach_the_routing_and_alignment_reaches_head_and_tags() -> None:
    for settings in ({"lambda_align": 0.0}, {"lambda_lbl": 0.0}):
        data, goal = batch(), objective(**settings)
        data["mean_probs_LBN"].requires_grad_()
        goal(**data).total.backward()
        grad = data["mean_probs_LBN"].grad
        assert grad is not None
        assert bool((grad != 0).all())
        reached = [bool(p.grad is not None and p.grad.any()) for p in goal.parameters()]
        assert all(reached) if "lambda_lbl" in settings else not any(reached)


@pytest.mark.parametrize("settings", [{"align_target": "stop-grad"}, {"tag_embedding": "frozen-orthogonal"}])
def test_the_target_can_be_held_still(settings: dict[str, str]) -> None:
    data, goal = batch(), objective(**settings)
    data["mean_probs_LBN"].requires_grad_()
    goal(**data).total.backward()
    assert goal.tag_embedding.weight.grad is None
    assert all(bool(p.grad.any()) for p in goal.router_head.parameters())  # type: ignore[union-attr]
    assert bool(data["mean_probs_LBN"].grad.any())  # type: ignore[union-attr]


def test_micro_batches_with_global_counts_equal_the_large_batch() -> None:
    data, goal = batch(), objective()
    goal(**data).total.backward()
    whole = [p.grad.clone() for p in goal.parameters()]  # type: ignore[union-attr]
    goal.zero_grad()
    load = expert_load(data["counts_LBN"])
    total = 0.0
    for i in range(BATCH):
        micro = {key: value[:, i : i + 1] if key.endswith("LBN") else value[i : i + 1] for key, value in data.items()}
        loss = goal(**micro, global_counts_LN=load).total / BATCH
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(float(goal(**data).total.detach()), rel=1e-5)
    for parameter, expected in zip(goal.parameters(), whole, strict=True):
        assert torch.allclose(parameter.grad, expected, atol=1e-6)  # type: ignore[arg-type]


def test_bf16_under_autocast_gives_fp32_terms() -> None:
    data, goal = batch(), objective()
    half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in data.items()}
    full = {key: value.float() if value.is_floating_point() else value for key, value in half.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = goal(**half)
    assert all(getattr(terms, field.name).dtype == torch.float32 for field in dataclasses.fields(terms))
    assert report(terms) == pytest.approx(report(goal(**full)), rel=1e-6)


def test_keys_are_the_releases() -> None:
    shapes = {key: tuple(value.shape) for key, value in Objective(4, 512, head_layers=3).state_dict().items()}
    assert shapes == {
        "tag_embedding.weight": (18, 512),
        "router_head.net.0.weight": (256, 4),
        "router_head.net.0.bias": (256,),
        "router_head.net.2.weight": (256, 256),
        "router_head.net.2.bias": (256,),
        "router_head.net.4.weight": (512, 256),
        "router_head.net.4.bias": (512,),
    }


def test_alignment_alone_teaches_the_routing_to_tell_tasks_apart() -> None:
    """The claim of section 3.3.3: minimising L_align makes g carry the task."""
    data, goal = batch(), objective(lambda_lbl=0.0, tag_embedding="frozen-orthogonal")
    logits = (0.01 * torch.randn(LAYERS, BATCH, EXPERTS)).requires_grad_()
    optimiser = torch.optim.Adam([logits, *goal.parameters()], lr=0.05)
    history = []
    for _ in range(60):
        data["mean_probs_LBN"] = torch.softmax(logits, dim=-1)
        terms = goal(**data)
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        history.append(float(terms.alignment))
    assert history[-1] < 0.1 < 0.5 < history[0]
    signature = routing_signature(data["mean_probs_LBN"].detach())
    assert float(torch.cdist(signature, signature).fill_diagonal_(9).min()) > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"align_target": "none"}, "'grad' or 'stop-grad'"),
        ({"head_layers": 4}, "2 \\(the paper\\) or 3"),
        ({"lambda_lbl": -1.0}, "neither may be negative"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**settings)


def test_token_weights_touch_the_flow_alone() -> None:
    data, goal = batch(), objective()
    plain, weighted = report(goal(**data)), report(goal(**data, weight_BT=torch.full((BATCH, 6), 3.0)))
    assert weighted["flow"] == pytest.approx(3 * plain["flow"], rel=1e-6)
    assert (weighted["balance"], weighted["alignment"]) == (plain["balance"], plain["alignment"])


def test_one_statistic_alone_is_refused() -> None:
    data = batch()
    del data["counts_LBN"]
    with pytest.raises(ValueError, match="give both"):
        objective()(**data)
