"""Variants of L_align and of the routing signature: each changes what it says, and no other term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from tagmoe.errors import ConfigError
from tagmoe.losses import (
    Objective,
    TagEmbedding,
    contrastive_alignment_loss,
    hard_probs,
    layered_signature,
    routing_signature,
)
from tagmoe.tags import TAGS

VARIANTS: list[dict[str, Any]] = [
    {"align_loss": "contrastive"},
    {"signature": "by-layer", "num_layers": 3},
    {"hard_signature": True},
    {"tag_embedding": "learned"},
]


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tags = torch.zeros(6, len(TAGS))
    for row in range(6):
        tags[row, row % 3] = tags[row, 8] = 1  # three tasks, each twice
    return {
        "prediction": torch.randn(6, 5, 4, generator=generator),
        "x0": torch.randn(6, 5, 4, generator=generator),
        "noise": torch.randn(6, 5, 4, generator=generator),
        "tags_BK": tags,
        "mean_probs_LBN": torch.softmax(torch.randn(3, 6, 4, generator=generator), dim=-1),
        "counts_LBN": torch.randint(0, 9, (3, 6, 4), generator=generator).float() + 1,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_the_alignment_and_no_other_term(variant: dict[str, Any]) -> None:
    terms = []
    for settings in ({}, variant):
        torch.manual_seed(0)
        kept = {"tag_embedding": "frozen-orthogonal"} | settings
        terms.append(Objective(4, 24, **kept)(**batch()))  # type: ignore[arg-type]
    paper, other = terms
    assert torch.equal(paper.flow, other.flow)
    assert torch.equal(paper.balance, other.balance)
    assert not torch.equal(paper.alignment, other.alignment)
    torch.testing.assert_close(other.total, other.flow + 0.01 * other.balance + 0.1 * other.alignment)


def test_a_constant_answer_is_no_minimum_of_the_contrastive_loss() -> None:
    tags = batch()["tags_BK"]
    semantic = TagEmbedding(24, kind="frozen-orthogonal")(tags)
    constant = torch.ones(6, 24)
    right = contrastive_alignment_loss(semantic, semantic, tags)
    # every task once, however many samples it has
    collapsed = contrastive_alignment_loss(constant, torch.ones(6, 24), tags)
    torch.testing.assert_close(collapsed, torch.tensor(3.0).log())
    assert right < 0.1 < collapsed
    once, twice = (contrastive_alignment_loss(semantic[n], semantic[n], tags[n]) for n in (slice(0, 3), slice(0, 6)))
    torch.testing.assert_close(once, twice)
    assert float(contrastive_alignment_loss(semantic[:1], semantic[:1], tags[:1])) == 0


def test_stop_grad_keeps_the_contrastive_target_still() -> None:
    tags = batch()["tags_BK"]
    semantic = torch.randn(6, 24, requires_grad=True)
    predicted = torch.randn(6, 24, requires_grad=True)
    contrastive_alignment_loss(predicted, semantic, tags, target_grad=False).backward()
    assert semantic.grad is None
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0


def test_the_layered_signature_tells_layers_apart() -> None:
    probs = batch()["mean_probs_LBN"]
    swapped = probs.flip(0)
    assert torch.allclose(routing_signature(probs), routing_signature(swapped))
    assert not torch.allclose(layered_signature(probs), layered_signature(swapped))
    assert layered_signature(probs).shape == (6, 12)
    torch.testing.assert_close(layered_signature(probs).view(6, 3, 4).mean(dim=1), routing_signature(probs))


def test_the_hard_signature_counts_choices_and_has_the_scores_gradient() -> None:
    data = batch()
    probs = data["mean_probs_LBN"].requires_grad_()
    hard = hard_probs(probs, data["counts_LBN"])
    counts = data["counts_LBN"]
    torch.testing.assert_close(hard.detach(), counts / counts.sum(dim=-1, keepdim=True))
    weights = torch.randn(hard.shape)
    (hard * weights).sum().backward()
    torch.testing.assert_close(probs.grad, weights)


def test_tags_from_text_are_fixed_rows_of_length_one() -> None:
    embedding = TagEmbedding(24, kind="text")
    assert not list(embedding.parameters())
    readings = torch.randn(len(TAGS), 24) + 5
    embedding.read_names(readings)
    torch.testing.assert_close(embedding.weight.norm(dim=1), torch.ones(len(TAGS)))
    centred = readings - readings.mean(dim=0)
    torch.testing.assert_close(functional.cosine_similarity(embedding.weight, centred), torch.ones(len(TAGS)))
    with pytest.raises(ConfigError, match="gives 8 numbers a tag, but semantic_dim is 24; set it to 8"):
        embedding.read_names(torch.randn(len(TAGS), 8))


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="align_loss is 'triplet'"):
        Objective(4, 24, align_loss="triplet")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="signature 'sum'"):
        Objective(4, 24, signature="sum")  # type: ignore[arg-type]
