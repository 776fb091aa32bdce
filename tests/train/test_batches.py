"""What a batch holds: references that are dropped, times by the size of the picture, weights by references."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tagmoe.config import RunConfig
from tagmoe.data.order.sampler import Sampler, SourceRows
from tagmoe.errors import ConfigError, UsageError
from tagmoe.pipeline.schedule import dynamic_shift
from tagmoe.train.components_folder import read_components
from tagmoe.train.recipe import assemble, dense_transformer, unified_transformer
from tagmoe.train.stage import FlowStage
from tagmoe.train.stored import by_references

QWEN = {"base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256, "max_image_seq_len": 8192}
"""Of Qwen-Image's scheduler_config.json."""


def stage(config: RunConfig, latents: str, scheduler: FlowMatchEulerDiscreteScheduler | None = None) -> FlowStage:
    parts = read_components(str(config.components))
    pipeline = assemble(unified_transformer(dense_transformer(config, parts), config), parts)
    if scheduler is not None:
        pipeline.register_modules(scheduler=scheduler)
    return FlowStage(
        "unified", pipeline, config.unified, config.loss, config.optimizer,
        seed=0, cache=Path(latents), validator=lambda *_: {},
    )  # fmt: skip


def test_so_many_batches_have_no_references(config: Callable[..., RunConfig], latents: str) -> None:
    changed = {"steps": 6, "text_to_image_every": 0, "reference_dropout": 0.4}
    made, whole = (
        stage(config(unified=changed), latents),
        stage(config(unified={**changed, "reference_dropout": 0}), latents),
    )
    batches = [made.draw(step, 0)[0] for step in range(40)]
    dropped = [batch.reference_BTC is None for batch in batches]
    assert 40 * 0.2 < sum(dropped) < 40 * 0.6
    assert [len(batch.grids) for batch in batches] == [1 if gone else 2 for gone in dropped]
    again = [made.draw(step, 0)[0].reference_BTC is None for step in range(20)]
    assert again == dropped[:20], "a pure function of the seed and the number"
    for step in (dropped.index(True), dropped.index(False)):
        one, other = made.draw(step, 0), whole.draw(step, 0)
        assert torch.equal(one[0].target_BTC, other[0].target_BTC)
        assert torch.equal(one[1], other[1])
    loss, _ = made.loss(0, 0)
    assert math.isfinite(float(loss.detach()))


def test_times_are_shifted_by_the_size_of_the_picture(config: Callable[..., RunConfig], latents: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **QWEN)
    shifted = stage(config(loss={"resolution_shift": True}), latents, scheduler)
    plain = stage(config(), latents)
    (batch, noise, t_B), (_, other_noise, u_B) = shifted.draw(1, 0), plain.draw(1, 0)
    tokens = batch.target_BTC.shape[1]
    mu = 0.5 + (0.9 - 0.5) * (tokens - 256) / (8192 - 256)
    assert dynamic_shift(scheduler.config, tokens) == pytest.approx(mu)
    torch.testing.assert_close(t_B, math.exp(mu) * u_B / (1 + (math.exp(mu) - 1) * u_B))
    assert torch.equal(noise, other_noise)
    assert dynamic_shift(scheduler.config, 4096) == pytest.approx(0.6935, abs=1e-4), "1024x1024"


def test_a_scheduler_without_such_a_shift_is_refused(config: Callable[..., RunConfig], latents: str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.resolution_shift"):
        stage(config(loss={"resolution_shift": True}), latents)


def test_rows_are_weighed_by_their_references_and_sources_keep_their_shares() -> None:
    rows = {"64x64": np.arange(100), "64x64 64x64": np.arange(100, 200), "64x64 64x64 64x64": np.arange(200, 300)}
    sources = {"a": SourceRows(3.0, rows), "b": SourceRows(1.0, {"64x64": np.arange(300, 400)})}
    assert by_references(sources, None) is sources
    sampler = Sampler(by_references(sources, {0: 0, 2: 3}), batch=4, seed=0)
    drawn = [sampler.draw(number) for number in range(400)]
    counts = {bucket: sum(len(draw.rows) for draw in drawn if draw.bucket == bucket) for bucket in rows}
    assert sum(counts.values()) == 1600
    assert counts["64x64"] == 0, "b has no other rows, so it is left out too"
    assert counts["64x64 64x64 64x64"] / counts["64x64 64x64"] == pytest.approx(3, rel=0.05)
    both = Sampler(by_references(sources, {0: 2.0}), batch=4, seed=0)
    names = [name[0] for number in range(400) for name in both.draw(number).sources]
    assert names.count("a") / names.count("b") == pytest.approx(3, rel=0.05)
    with pytest.raises(UsageError, match="reference_weights"):
        by_references({"b": sources["b"]}, {0: 0})
