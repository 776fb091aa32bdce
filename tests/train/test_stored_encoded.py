"""Training on a store that is encoded: the batches of its pictures, and none of another encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.stored_changes import changed
from support.tiny_training import TAGWORLD_SEED
from support.training_runs import make_stage, metrics

from tagmoe.config import DataConfig, RunConfig
from tagmoe.data.encode import encode_store
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError
from tagmoe.train.encoder import encoder_of
from tagmoe.train.stored import StoredRows, StoredSamples


@pytest.fixture(scope="module")
def encoded(tagworld: Path, components: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the store, encoded. Read it, do not change it."""
    target = tmp_path_factory.mktemp("encoded") / "store"
    shutil.copytree(tagworld, target)
    load, fingerprint = encoder_of(Path(components), threads=1)
    encode_store(Store.open(target), load, fingerprint)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edit", "generate"])
def test_an_encoded_store_gives_the_batches_of_its_pictures(
    kind: str, tagworld: Path, encoded: Path, components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    pipeline = make_stage(config(), tmp_path).pipeline
    both = []
    for place, folder in ((tagworld, None), (encoded, Path(components))):
        rows = StoredRows.open(DataConfig(store=str(place)), folder)
        both.append(StoredSamples(pipeline, rows, kind, batch=8, seed=0, dropout=0.4))
        if folder is not None:
            pipeline.encode_images = pipeline.encode_texts = None  # nothing is encoded any more
        both.append(both.pop().draw(2))
    pictures, columns = both
    assert pictures.samples == columns.samples
    assert pictures.grids == columns.grids
    for name in ("mask_BS", "tags_BK", "edited_BT"):
        assert torch.equal(getattr(pictures, name), getattr(columns, name)), name
    for name in ("text_BSD", "target_BTC", "reference_BTC"):
        one, other = getattr(pictures, name), getattr(columns, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=2**-10, atol=2e-4)


@pytest.mark.slow
def test_a_run_on_an_encoded_store_learns_what_one_on_pictures_does(
    tagworld: Path, encoded: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    logs = []
    for name, place in (("pictures", tagworld), ("columns", encoded)):
        run = config(name, data={"store": str(place)}, base={"steps": 2}, unified={"steps": 4})
        run_training(run)
        logs.append([line["flow"] for line in metrics(run)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)


def test_what_another_encoder_made_is_not_trained_on(
    encoded: Path, components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    store = shutil.copytree(encoded, tmp_path / "store")
    settings = DataConfig(store=str(store))
    assert StoredRows.open(settings).encoded is None
    other = tmp_path / "other"
    shutil.copytree(components, other)
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file)
    with pytest.raises(DataError, match=r"another encoder \(different: vae\)"):
        StoredRows.open(settings, other)
    import_source(Store.open(store), TagWorldSource(3, TAGWORLD_SEED + 1))
    with pytest.raises(DataError, match=r"3 rows of the store .* have no 'encoded_bucket' yet"):
        StoredRows.open(settings, Path(components))


@pytest.mark.slow
def test_every_wording_is_trained_on_as_before_encoding(
    tagworld: Path, components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    texts = ("draw a red circle", "make the circle red", "remove the hat")
    place = changed(
        tagworld,
        tmp_path / "store",
        lambda record: replace(record, instruction=texts[0], instructions=texts[1:], instruction_rewritten=None),
    )
    pipeline = make_stage(config(), tmp_path).pipeline
    own = {text: pipeline.encode_prompt(text)[0][0] for text in texts}

    def counts(folder: Path | None) -> list[str]:
        rows = StoredRows.open(DataConfig(store=str(place)), folder)
        samples = StoredSamples(pipeline, rows, "edit", batch=8, seed=0, dropout=0)
        drawn = []
        for batch in (samples.draw(number) for number in range(12)):
            for text, mask in zip(batch.text_BSD, batch.mask_BS, strict=True):
                near = {t: float((text[mask] - v).abs().max()) for t, v in own.items() if len(v) == mask.sum()}
                drawn.append(min(near, key=lambda t: near[t]))
        return drawn

    before = counts(None)
    load, fingerprint = encoder_of(Path(components), threads=1)
    encode_store(Store.open(place), load, fingerprint)
    assert counts(Path(components)) == before
    assert all(before.count(text) >= 20 for text in texts)
