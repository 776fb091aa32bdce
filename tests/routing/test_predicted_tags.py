"""Tags read off a routing signature: the search is exact, scores are right, and bad weights are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.losses import Objective
from tagmoe.model.routing import RoutingTrace
from tagmoe.routing.predicted_tags import Alignment, score, signature
from tagmoe.tags import TAG_NAMES, TAGS, TaskDescriptor
from tagmoe.world import TASKS


def tensors(num_experts: int = 4, dim: int = 24, *, layers: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    objective = Objective(num_experts, dim, head_hidden=8, head_layers=layers)
    return {key: value.detach() for key, value in objective.state_dict().items()}


def tasks() -> list[TaskDescriptor]:
    """The sets of TagWorld's tasks when no face stays."""
    return list({t: TaskDescriptor((t.scope,), t.types, t.preservation) for t in TASKS.values()}.values())


def constant_answer(weights: dict[str, torch.Tensor], semantic_D: torch.Tensor) -> Alignment:
    """An alignment whose head answers with one vector, whatever the signature."""
    last = max(key for key in weights if key.endswith("weight") and key.startswith("router_head"))
    weights = weights | {last: torch.zeros_like(weights[last]), last.replace("weight", "bias"): semantic_D.clone()}
    return Alignment.from_tensors(weights)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("experts", "dim", "layers"), [(4, 24, 2), (4, 24, 3), (2, 18, 2), (16, 200, 3)])
def test_the_tags_that_made_the_answer_are_found_for_every_shape_of_head(experts: int, dim: int, layers: int) -> None:
    weights = tensors(experts, dim, layers=layers)
    for task in tasks()[::3]:
        alignment = constant_answer(weights, 3.0 * weights["tag_embedding.weight"][list(task.indices)].sum(dim=0))
        (found,) = alignment.predict(torch.full((1, experts), 1 / experts))
        assert found.descriptor.indices == task.indices
        assert found.cosine == pytest.approx(1, abs=1e-5)
        assert alignment.cosine(torch.ones(1, experts), [task]) == [pytest.approx(1, abs=1e-5)]


@pytest.mark.slow
def test_the_search_over_all_sets_equals_the_cosines_of_sums() -> None:
    weights = tensors(dim=6)
    alignment = Alignment.from_tensors(weights)
    signatures = torch.softmax(torch.randn(5, 4), dim=-1)
    head = alignment.head(signatures)
    rows = weights["tag_embedding.weight"]
    subsets = [
        subset
        for size in range(1, 6)
        for subset in itertools.combinations(TAG_NAMES, size)
        if not TaskDescriptor.from_tags(subset).broken_rules()
    ]
    sums = torch.stack([rows[list(TaskDescriptor.from_tags(subset).indices)].sum(dim=0) for subset in subsets])
    best_of_small = torch.nn.functional.cosine_similarity(head[:, None], sums[None], dim=-1).max(dim=1).values
    for found, vector, small in zip(alignment.predict(signatures), head, best_of_small, strict=True):
        found.descriptor.validate()
        own = rows[list(found.descriptor.indices)].sum(dim=0)
        assert found.cosine == pytest.approx(float(torch.cosine_similarity(vector, own, dim=0)), abs=1e-5)
        assert found.cosine >= float(small) - 1e-5


def test_the_ranking_holds_every_tag_by_its_cosine() -> None:
    weights = tensors()
    signatures = torch.softmax(torch.randn(2, 4), dim=-1)
    alignment = Alignment.from_tensors(weights)
    for found, vector in zip(alignment.predict(signatures), alignment.head(signatures), strict=True):
        assert sorted(tag for tag, _ in found.ranking) == sorted(TAG_NAMES)
        cosines = [cosine for _, cosine in found.ranking]
        assert cosines == sorted(cosines, reverse=True)
        tag, cosine = found.ranking[3]
        row = weights["tag_embedding.weight"][TAG_NAMES.index(tag)]
        assert cosine == pytest.approx(float(torch.cosine_similarity(vector, row, dim=0)), abs=1e-5)


def test_candidates_limit_the_answer() -> None:
    chosen = tasks()[3:5]
    found = Alignment.from_tensors(tensors()).predict(torch.rand(20, 4), candidates=chosen)
    assert {one.descriptor for one in found} <= set(chosen)
    with pytest.raises(UsageError, match="no sets of tags"):
        Alignment.from_tensors(tensors()).predict(torch.rand(1, 4), candidates=[])


def test_many_samples_are_predicted_as_one_by_one() -> None:
    alignment, signatures = Alignment.from_tensors(tensors()), torch.rand(600, 4)
    many = alignment.predict(signatures)
    assert len(many) == 600
    for i in (0, 255, 256, 599):
        (alone,) = alignment.predict(signatures[i : i + 1])
        assert alone.descriptor == many[i].descriptor
        assert alone.cosine == pytest.approx(many[i].cosine, abs=1e-5)


def test_signatures_of_another_number_of_experts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(1, 5\).*\(samples, 4\)"):
        Alignment.from_tensors(tensors()).predict(torch.rand(1, 5))


def test_the_signature_of_a_run_is_the_mean_over_its_steps_layers_and_tokens() -> None:
    scores = torch.softmax(torch.randn(3, 2, 1, 6, 4), dim=-1)  # steps, layers, batch, tokens, experts
    traces = [RoutingTrace(step, step.topk(1).indices, ((1, 1, 2), (1, 2, 2))) for step in scores]
    wanted = scores.mean(dim=(0, 1, 3))
    assert torch.allclose(signature(traces), wanted, atol=1e-6)
    assert torch.allclose(signature([trace.stats() for trace in traces]), wanted, atol=1e-6)
    with pytest.raises(UsageError, match="no routing"):
        signature([])


# Weights that do not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag_embedding.weight": None}, "lacks 'tag_embedding.weight'"),
        ({"router_head.net.0.weight": None}, "lacks 'router_head.net.0.weight'"),
        ({"router_head.net.2.bias": None}, "'router_head.net.2.bias' absent"),
        ({"tag_embedding.weight": torch.zeros(17, 24)}, r"shape \(17, 24\).*\(18, D\)"),
        ({"tag_embedding.weight": torch.zeros(18, 23)}, "router_head.net.2"),
        ({"router_head.net.0.weight": torch.zeros(8)}, "must be a matrix"),
        ({"router_head.net.2.weight": torch.zeros(24, 9)}, r"'router_head.net.2.weight' of shape \(24, 9\)"),
        ({"router_head.net.2.weight": torch.full((24, 8), torch.nan)}, "not finite"),
        ({"router_head.other": torch.zeros(2)}, "'router_head.other' of shape"),
        ({"router_head.net.4.weight": torch.zeros(24, 8)}, "router_head.net"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    weights = {key: value for key, value in (tensors() | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        Alignment.from_tensors(weights)


def test_a_folder_gives_its_alignment_or_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"alignment\.safetensors"):
        Alignment.load(tmp_path)
    weights = {key: value.to(torch.bfloat16) for key, value in tensors().items()}
    save_file(weights, tmp_path / "alignment.safetensors")
    signatures = torch.rand(2, 4)
    assert Alignment.load(tmp_path).predict(signatures) == Alignment.from_tensors(weights).predict(signatures)
    (tmp_path / "alignment.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        Alignment.load(tmp_path)


# Scores -----------------------------------------------------------------------------------------------------------


def test_a_score_counts_sets_tags_and_the_answer_that_never_changes() -> None:
    scope = ("local editing",)
    a = TaskDescriptor(scope, ("object editing",), ("background preservation",))
    b = TaskDescriptor(scope, ("attribute editing",), ("background preservation",))
    result = score([a, a, b], [a, b, b])
    assert (result.n, result.exact) == (3, pytest.approx(2 / 3))
    assert result.f1 == pytest.approx(8 / 9)
    assert result.baseline.indices == b.indices
    assert result.baseline_exact == pytest.approx(2 / 3)
    assert result.baseline_f1 == pytest.approx(8 / 9)
    objects, attributes = result.tags["object editing"], result.tags["attribute editing"]
    assert (objects.support, objects.precision, objects.recall) == (1, 0.5, 1.0)
    assert (attributes.support, attributes.precision, attributes.recall) == (2, 1.0, 0.5)
    assert result.tags["pose editing"].precision is None
    assert result.tags["pose editing"].recall is None
    assert list(result.tags) == [tag.name for tag in TAGS]
    assert result.as_json()["baseline"] == list(b.tags)


def test_the_order_of_tags_does_not_make_an_answer_wrong() -> None:
    kept = ("background preservation", "style preservation")
    one = TaskDescriptor(("local editing",), ("object editing",), kept)
    other = TaskDescriptor(("local editing",), ("object editing",), kept[::-1])
    assert score([one], [other]).exact == 1
    with pytest.raises(UsageError, match="no cases"):
        score([], [])
