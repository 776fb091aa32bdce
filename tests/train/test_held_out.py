"""The validation split is never trained on, and gives a loss; rare sizes do not fill a batch with one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.stored_changes import changed
from support.training_runs import make_stage, metrics

from tagmoe.config import DataConfig, RunConfig
from tagmoe.data.encode import encode_store
from tagmoe.data.store.record import Picture, Record
from tagmoe.data.store.store import Store
from tagmoe.train.encoder import encoder_of
from tagmoe.train.recipe import train
from tagmoe.train.stage import FlowStage
from tagmoe.train.stored import StoredRows, held_out_draws

HELD_OUT = "0" * 64


@pytest.fixture(scope="module")
def store(tagworld: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of photographs of which about a quarter are held out, and one is alone with its sizes."""

    def change(record: Record) -> Record:
        root = HELD_OUT if int(record.id[0], 16) % 4 == 0 else "f" * 64
        if record.id == lone:
            image = record.target
            return replace(record, dataset="photographs", root="f" * 64, images=(image, image, image))
        return replace(record, dataset="photographs", root=root)

    lone = next(record.id for record in Store.open(tagworld).records(range(40)))
    return changed(tagworld, tmp_path_factory.mktemp("held") / "store", change)


def stage_of(config: RunConfig, folder: Path) -> FlowStage:
    assert config.data is not None
    return FlowStage(
        "unified", make_stage(config, folder).pipeline, config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {}, stored=StoredRows.open(config.data),
    )  # fmt: skip


@pytest.mark.slow_but_first
@pytest.mark.parametrize("encoded", [False, True])
def test_the_held_out_loss_is_logged_and_said(
    encoded: bool, store: Path, components: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    place = changed(store, tmp_path / "store", lambda record: record)
    if encoded:
        encode_store(Store.open(place), *encoder_of(Path(components), threads=1))
    run = config(data={"store": str(place)}, base={"steps": 2}, unified={"steps": 4}, validate_every=2)
    console = Console(record=True, width=400, file=StringIO())
    train(run, validator=lambda *_: {}, console=console)
    found = console.export_text()
    records = Store.open(place).records(range(64))
    count = sum(record.split == "validation" for record in records)
    assert 5 < count < 40
    assert f"unified: the loss on {count} rows of the split validation is logged as held_out_flow" in found
    assert "unified 4: held_out_flow" in found
    logged = {(line["stage"], line["step"]) for line in metrics(run) if "validation/held_out_flow" in line}
    assert logged == {("base", 2), ("unified", 2), ("unified", 4)}
    assert "1 bucket of fewer rows than a batch of 4; 1 row once in a batch" in found


@pytest.mark.slow
def test_the_held_out_loss_is_the_same_for_the_same_weights(
    store: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    stage = stage_of(config(data={"store": str(store), "validation_rows": 6}), tmp_path)
    with torch.no_grad():
        first = stage.validate(1, tmp_path)
        assert first == stage.validate(2, tmp_path)
        for parameter in stage.transformer.parameters():
            parameter.mul_(1.5)
        assert stage.validate(3, tmp_path) != first
    assert sum(len(draw.rows) for draw in stage._held_out) == 6


@pytest.mark.slow
def test_a_store_without_held_out_rows_says_so(
    tagworld: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    stage = stage_of(config(data={"store": str(tagworld)}), tmp_path)
    assert stage.notes() == ["unified: the store has no rows in its split validation, so there is no held-out loss."]
    assert stage.validate(1, tmp_path) == {}


def test_held_out_rows_are_not_trained_on(store: Path) -> None:
    rows = StoredRows.open(DataConfig(store=str(store)))
    held = {row for draw in held_out_draws(rows, ["all"], 8) for row in draw.rows.tolist()}
    trained = {row for source in rows.sources.values() for numbers in source.rows.values() for row in numbers.tolist()}
    assert held.isdisjoint(trained)
    assert len(held | trained) == 64


def test_a_row_of_rare_sizes_counts_as_one(store: Path, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    settings = config(data={"store": str(store)}, unified={"batch": 8, "text_to_image_every": None, "steps": 400})
    stage = stage_of(settings, tmp_path)
    sampler = stage._samples["all"].sampler  # type: ignore[attr-defined]
    step = next(step for step in range(400) if sampler.draw(step).bucket.count(" ") == 3)
    loss, report = stage.loss(step, 0)
    batch = stage.draw(step, 0)[0]
    assert len(batch.samples) == 1
    assert batch.share == 1 / 8
    assert 0 < float(loss.detach()) < 0.3 * report["flow"]


def test_held_out_pictures_are_checked_before_the_first_step(
    store: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    def odd(record: Record) -> Record:
        wrong = Picture(record.target.data, 50, 64)
        return replace(record, target=wrong) if record.split == "validation" else record

    place = changed(store, tmp_path / "store", odd)
    with pytest.raises(Exception, match="pictures of 50x64"):
        run_training(config(data={"store": str(place)}))
