"""g by stream and layer: the parts add up to g, and a planted share of the variance is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.made_recordings import EXPERTS, LAYERS, TIMES, Make, about, facts, shown, traces

from tagmoe.losses.signature import routing_signature
from tagmoe.model.routing import ROUTING_TOKENS
from tagmoe.routing.findings import Missing, find
from tagmoe.routing.predicted_tags import signature
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter
from tagmoe.routing.streams import image_weights, parts_of, streams
from tagmoe.routing.summary import summarise

GRIDS = ((1, 4, 4), (1, 2, 6), (1, 5, 1))


def test_the_variance_is_where_it_was_planted() -> None:
    rng = np.random.default_rng(0)
    tasks = [f"task {number % 6}" for number in range(120)]
    base = np.full((120, 2, 3, 4), 1 / (2 * 3 * 4)) + 1e-4 * rng.standard_normal((120, 2, 3, 4))
    of_task = rng.standard_normal((6, 4))
    of_task -= of_task.mean(axis=1, keepdims=True)
    moved = base.copy()
    # Three parts of the task in the last layer's references, one in the first layer's target.
    moved[:, 1, 2] += 0.03 * of_task[[number % 6 for number in range(120)]]
    moved[:, 0, 0] += 0.01 * of_task[[number % 6 for number in range(120)]]
    found = streams(moved, tasks)
    assert found.dead.value == pytest.approx(0.75, abs=0.01)
    assert found.variance_SL.value[0, 0] == pytest.approx(0.25, abs=0.01)
    assert found.variance_SL.value.sum() == pytest.approx(1)
    assert found.stream_S.value == pytest.approx(found.variance_SL.value.sum(axis=1))
    assert found.dead_weight == pytest.approx(1 / 6, rel=1e-2)
    assert (found.cases, found.tasks) == (120, 6)
    assert found.dead.low is not None
    assert found.dead.low < 0.75 < found.dead.high < 0.77


def test_g_that_never_moves_has_no_shares() -> None:
    assert streams(np.full((6, 2, 1, 2), 0.25), ["a", "b"] * 3).dead.value is None


@pytest.mark.parametrize("tokens", ROUTING_TOKENS)
def test_the_parts_add_up_to_g_of_the_tokens_that_count(tmp_path: Path, tokens: str) -> None:
    given = [replace(trace, routing_tokens=tokens) for trace in traces(3, GRIDS)]
    writer = RecordingWriter(tmp_path, about())
    writer.add(facts(0, "t"), given, TIMES, shown(0, mask=False))
    writer.close()
    recording = read_recording(tmp_path)
    assert recording.header.shape.routing_tokens == tokens
    assert ("routing_tokens" in (tmp_path / "recording.json").read_text()) == (tokens != "all")
    (summary,) = summarise(recording)
    wanted = torch.stack([routing_signature(trace.stats().mean_probs_LBN)[0] for trace in given]).mean(dim=0).numpy()
    assert np.allclose(summary.signature_LN.mean(axis=0), wanted, atol=1e-6)
    assert np.allclose(summary.parts_2LN.sum(axis=(0, 1)), wanted, atol=1e-6)
    assert np.allclose(signature(given)[0].numpy(), wanted, atol=1e-6)
    assert np.allclose(signature([trace.stats() for trace in given])[0].numpy(), wanted, atol=1e-6)
    read = recording.tokens(recording.cases[0]).traces()
    assert {trace.routing_tokens for trace in read} == {tokens}
    counted = {"all": [True] * LAYERS, "live": [True] * (LAYERS - 1) + [False], "target": [False] * LAYERS}[tokens]
    assert [bool(layer.any()) for layer in summary.parts_2LN[1]] == counted


def test_weights_follow_the_number_of_tokens() -> None:
    weight_LI = image_weights("live", GRIDS, 2)
    assert np.allclose(weight_LI, [[16 / 33, 12 / 33, 5 / 33], [1, 0, 0]])
    means = np.random.default_rng(0).dirichlet(np.ones(EXPERTS), size=(3, 2, 3))
    assert parts_of(means, weight_LI).sum() == pytest.approx(1)


@pytest.mark.slow
def test_a_report_has_them_or_says_why_not(make: Make, tmp_path: Path) -> None:
    found = find(make())
    assert not isinstance(found.streams, Missing)
    assert found.streams.cases == 12
    assert set(found.signature_streams) == set(found.utilisation)
    assert find(make("one", tasks=("add",))).streams == Missing(
        "All cases are of one task, add: there is nothing to tell apart."
    )
    (tmp_path / "text").mkdir()
    writer = RecordingWriter(tmp_path / "text", about())
    writer.add(facts(0, "t"), traces(0, ((1, 4, 4),)), TIMES, shown(0, sources=0))
    writer.close()
    assert find(read_recording(tmp_path / "text")).streams == Missing("No case with a task has a reference picture.")
