"""Eq. 2: s by loops, independent of the order of tags, and the two measures of collapse."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tagmoe.errors import ConfigError
from tagmoe.losses import TagEmbedding
from tagmoe.tags import TaskDescriptor, index

NAMES = ["local editing", "object editing", "identity preservation", "style preservation"]


def hot(*names: str) -> torch.Tensor:
    return torch.tensor([TaskDescriptor.from_tags(names).multi_hot()])


def test_sum_of_rows_by_loops() -> None:
    embedding = TagEmbedding(6)
    semantic = embedding(hot(*NAMES))
    assert semantic.shape == (1, 6)
    for d in range(6):
        expected = sum(float(embedding.weight[index(name), d]) for name in NAMES)
        assert float(semantic[0, d]) == pytest.approx(expected, abs=1e-6)


def test_order_of_tags_does_not_matter() -> None:
    embedding = TagEmbedding(8)
    results = [embedding(hot(*order)) for order in itertools.permutations(NAMES)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_no_tags_give_zero() -> None:
    assert torch.equal(TagEmbedding(5)(torch.zeros(2, 18)), torch.zeros(2, 5))


def test_only_rows_of_given_tags_get_a_gradient() -> None:
    embedding = TagEmbedding(8)
    embedding(hot(*NAMES)).square().sum().backward()
    touched = {i for i, row in enumerate(embedding.weight.grad) if bool(row.any())}  # type: ignore[arg-type]
    assert touched == {index(name) for name in NAMES}


def test_frozen_rows_are_orthonormal_and_no_parameter() -> None:
    embedding = TagEmbedding(32, kind="frozen-orthogonal")
    assert torch.allclose(embedding.weight @ embedding.weight.T, torch.eye(18), atol=1e-5)
    assert list(embedding.parameters()) == []
    assert embedding.effective_rank() == pytest.approx(18, rel=1e-4)
    assert embedding.mean_cosine() == pytest.approx(0, abs=1e-5)


def test_both_kinds_share_the_releases_key() -> None:
    learned, frozen = TagEmbedding(20), TagEmbedding(20, kind="frozen-orthogonal")
    assert list(learned.state_dict()) == list(frozen.state_dict()) == ["weight"]
    frozen.load_state_dict(learned.state_dict())
    assert torch.equal(frozen.weight, learned.weight)


def test_effective_rank_by_its_formula() -> None:
    embedding = TagEmbedding(5, num_tags=7)
    values = torch.linalg.svdvals(embedding.weight.detach()).tolist()
    entropy = -sum(v / sum(values) * math.log(v / sum(values)) for v in values)
    assert embedding.effective_rank() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_collapse_is_seen_by_both_measures() -> None:
    embedding = TagEmbedding(8)
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(1, 19).view(18, 1) * torch.randn(8))
    assert embedding.effective_rank() == pytest.approx(1, abs=1e-3)
    assert embedding.mean_cosine() == pytest.approx(1, abs=1e-5)


def test_mean_cosine_by_loops() -> None:
    embedding = TagEmbedding(4, num_tags=5)
    rows = embedding.weight.detach()
    cosines = [
        float(torch.dot(rows[i], rows[j]) / (rows[i].norm() * rows[j].norm()))
        for i, j in itertools.permutations(range(5), 2)
    ]
    assert embedding.mean_cosine() == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def test_autocast_leaves_it_in_fp32() -> None:
    embedding = TagEmbedding(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        semantic = embedding(hot(*NAMES).bfloat16())
    assert semantic.dtype == torch.float32
    assert torch.equal(semantic, embedding(hot(*NAMES)))


@pytest.mark.parametrize(
    ("dim", "kind", "message"),
    [(8, "frozen-orthogonal", "dim >= 18"), (8, "random", "'learned', 'frozen-orthog")],
)
def test_bad_settings_are_refused(dim: int, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TagEmbedding(dim, kind=kind)  # type: ignore[arg-type]
