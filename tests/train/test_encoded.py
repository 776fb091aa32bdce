"""The latent cache gives what encoding would, in an order that is a function of the position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.stream import EDITING, TEXT_TO_IMAGE, EncodedSamples
from tagmoe.world import TASKS, sample


@pytest.fixture
def pipeline(components: str) -> TagMoEPipeline:
    return TagMoEPipeline.from_pretrained(components, dtype=torch.float32)


def store(pipeline: TagMoEPipeline, folder: Path, tasks: tuple[str, ...] = EDITING) -> EncodedSamples:
    return EncodedSamples(pipeline, tasks, seed=5, batch_size=10, unique=100, folder=folder, name="edit")


@pytest.mark.slow
def test_every_epoch_is_another_permutation(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    samples = store(pipeline, tmp_path)
    epochs = [samples.indices(range(100 * epoch, 100 * epoch + 100)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert samples.indices(range(150, 160)) == epochs[1][50:60]


@pytest.mark.slow
def test_cached_latents_equal_fresh_ones_and_survive_the_process(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    indices = [70, 3, 70, 99]
    first = store(pipeline, tmp_path).batch(indices, blank=[False] * 4)
    again = store(pipeline, tmp_path).batch(indices, blank=[False] * 4)
    assert torch.equal(first.target_BTC, again.target_BTC)
    drawn = sample(5, 3, task=EDITING)
    pixels = torch.from_numpy(np.stack([drawn.target, drawn.sources[0]])).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = pipeline.pack_latents(pipeline.encode_images(pixels))
    assert first.reference_BTC is not None
    torch.testing.assert_close(first.target_BTC[1], expected[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(first.reference_BTC[1], expected[1], atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_a_batch_carries_tags_edit_mask_and_blank_text(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    batch = store(pipeline, tmp_path).batch([0, 1], blank=[False, True])
    for row, drawn in enumerate(batch.samples):
        assert batch.tags_BK[row].tolist() == list(drawn.tags.multi_hot())
        mask = sample(5, drawn.index, task=EDITING).mask
        side = mask.shape[0] // 4
        for token in range(16):
            y, x = divmod(token, 4)
            assert bool(batch.edited_BT[row, token]) == mask[y * side : (y + 1) * side, x * side : (x + 1) * side].any()
    assert int(batch.mask_BS[1].sum()) < int(batch.mask_BS[0].sum())
    assert store(pipeline, tmp_path, TEXT_TO_IMAGE).batch([0], blank=[False]).reference_BTC is None


@pytest.mark.slow
def test_another_encoder_is_another_cache(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    store(pipeline, tmp_path).batch([0], blank=[False])
    with torch.no_grad():
        next(pipeline.vae.parameters()).add_(1.0)
    store(pipeline, tmp_path).batch([0], blank=[False])
    assert len(list(tmp_path.glob("*.latents"))) == 2


@pytest.mark.slow
def test_another_divide_is_another_cache_and_other_samples(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    new, old = (
        EncodedSamples(
            pipeline, EDITING, seed=5, batch_size=10, unique=100, folder=tmp_path, name="edit", divide=divide
        ).batch(range(40), blank=[False] * 40)
        for divide in ("content", "stream")
    )
    assert len(list(tmp_path.glob("*.latents"))) == 2
    same = [a.instruction == b.instruction for a, b in zip(new.samples, old.samples, strict=True)]
    assert 0 < sum(same) < 40


def test_the_buckets_hold_all_tasks() -> None:
    assert set(TEXT_TO_IMAGE) | set(EDITING) == set(TASKS)


def test_kept_texts_are_those_of_every_step_whatever_the_order(pipeline: TagMoEPipeline, tmp_path: Path) -> None:
    blank = [False, True, False, False]
    each, kept, again = (
        EncodedSamples(
            pipeline, EDITING, batch_size=4, seed=5, unique=128, folder=tmp_path, name="edit", keep_texts=keep
        )
        for keep in (False, True, True)
    )
    expected, found = each.batch([3, 70, 9, 1], blank=blank), kept.batch([3, 70, 9, 1], blank=blank)
    assert torch.equal(found.mask_BS, expected.mask_BS)
    torch.testing.assert_close(found.text_BSD, expected.text_BSD, atol=1e-5, rtol=1e-5)
    again.batch([120, 64, 2], blank=[False] * 3)
    other = again.batch([1, 9, 70, 3], blank=[False, False, True, False])
    width = min(found.text_BSD.shape[1], other.text_BSD.shape[1])
    assert torch.equal(other.text_BSD.flip(0)[:, :width], found.text_BSD[:, :width])
