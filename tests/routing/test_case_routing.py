"""Routing shares and maps from traces made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tagmoe.model.routing import RoutingTrace
from tagmoe.routing.case_routing import CaseRouting, by_task, record

L, B, N = 2, 3, 4
GRIDS = ((1, 2, 2), (1, 2, 3), (1, 1, 2))


def trace(seed: int, grids: tuple[tuple[int, int, int], ...] = GRIDS) -> RoutingTrace:
    tokens = sum(frames * height * width for frames, height, width in grids)
    scores = torch.randn(L, B, tokens, N, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)
    return RoutingTrace(scores_LBTN=scores, expert_ids_LBTA=scores.topk(1).indices, grids=grids)


def test_shares_are_means_over_steps_and_sum_to_one() -> None:
    traces = [trace(seed) for seed in range(3)]
    cases = record(traces)
    assert len(cases) == B
    for b, case in enumerate(cases):
        expected = np.mean([t.utilisation(0)[:, b].numpy() for t in traces], axis=0)
        assert case.target_LN == pytest.approx(expected)
        assert case.target_LN.sum(axis=1) == pytest.approx(np.ones(L))
        assert case.maps_LhwN.shape == (L, 2, 2, N)
        assert case.maps_LhwN.sum(axis=3) == pytest.approx(np.ones((L, 2, 2)), abs=1e-5)


def test_references_are_weighted_by_their_tokens() -> None:
    one = trace(0)
    counted = torch.nn.functional.one_hot(one.expert_ids_LBTA[:, :, 4:, 0], N).float().mean(dim=2)
    for b, case in enumerate(record([one])):
        assert case.references_LN is not None
        assert case.references_LN == pytest.approx(counted[:, b].numpy())


def test_target_tokens_do_not_count_as_references() -> None:
    scores = torch.zeros(1, 1, 8, 2)
    scores[:, :, :4, 0] = 1.0
    scores[:, :, 4:, 1] = 1.0
    made = RoutingTrace(scores, scores.topk(1).indices, ((1, 2, 2), (1, 2, 2)))
    (case,) = record([made])
    assert case.target_LN.tolist() == [[1.0, 0.0]]
    assert case.references_LN is not None
    assert case.references_LN.tolist() == [[0.0, 1.0]]


def test_without_references_there_is_nothing_to_count() -> None:
    assert all(case.references_LN is None for case in record([trace(0, GRIDS[:1])]))


def test_tasks_keep_their_order_and_average_their_cases() -> None:
    def case(share: float, with_reference: bool) -> CaseRouting:
        shares = np.array([[share, 1 - share]])
        return CaseRouting(shares, shares if with_reference else None, shares[:, None, None])

    tasks = by_task(["b", "a", "b"], [case(0.0, True), case(0.2, False), case(1.0, False)])
    assert list(tasks) == ["b", "a"]
    assert tasks["b"].cases == 2
    assert tasks["b"].target_LN.tolist() == [[0.5, 0.5]]
    assert tasks["b"].references_LN is not None
    assert tasks["b"].references_LN.tolist() == [[0.0, 1.0]]
    assert tasks["a"].references_LN is None
