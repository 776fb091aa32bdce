"""Training on a store: the samples of the stream give its loss, and a run goes on bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.stored_changes import changed
from support.tiny_training import TAGWORLD_SEED
from support.training_runs import KILLED_RUN, make_stage, metrics, weights

from tagmoe.config import DataConfig, RunConfig, check_config
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.record import Picture, Record
from tagmoe.data.store.store import Store
from tagmoe.errors import ConfigError, DataError, MissingError, TagMoEError, TrainingError
from tagmoe.train import loop
from tagmoe.train.batch import Batch
from tagmoe.train.stage import FlowStage
from tagmoe.train.stored import StoredRows, StoredSamples
from tagmoe.train.stream import EDITING, TEXT_TO_IMAGE, EncodedSamples


def numbers(store: Path, batch: Batch) -> list[int]:
    """Numbers of the stream's samples that the records of a batch were made of."""
    records = [Store.open(store).record(str(name)) for name in batch.samples]
    return [int(record.origin.rsplit("-", 1)[1]) for record in records]


def stored_stage(config: RunConfig, folder: Path) -> FlowStage:
    stage = make_stage(config, folder)
    assert config.data is not None
    return FlowStage(
        "unified", stage.pipeline, config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {}, stored=StoredRows.open(config.data),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tasks"), [("edit", EDITING), ("generate", TEXT_TO_IMAGE)])
def test_a_batch_is_that_of_the_stream_on_the_same_samples(
    kind: str, tasks: tuple[str, ...], tagworld: Path, config: Callable[..., RunConfig], latents: str
) -> None:
    pipeline = make_stage(config(), Path(latents)).pipeline
    rows = StoredRows.open(DataConfig(store=str(tagworld)))
    samples = StoredSamples(pipeline, rows, kind, batch=8, seed=0, dropout=0.4)
    drawn = samples.sampler.draw(3)
    ours = samples.draw(3)
    stream = EncodedSamples(
        pipeline, tasks, batch_size=8, seed=TAGWORLD_SEED, unique=64, folder=Path(latents), name=kind
    )
    theirs = stream.batch(numbers(tagworld, ours), blank=drawn.blank.tolist())
    assert 0 < drawn.blank.sum() < 8
    for name in ("text_BSD", "mask_BS", "tags_BK", "edited_BT"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.grids == theirs.grids
    for mine, other in ((ours.target_BTC, theirs.target_BTC), (ours.reference_BTC, theirs.reference_BTC)):
        if other is None:
            assert mine is None
        else:
            # the stream encodes 64 at once, which sums in another order: a few round to the next float16
            torch.testing.assert_close(mine, other, rtol=2**-10, atol=2e-4)
            assert (mine == other).float().mean() > 0.95


def test_the_loss_is_that_of_the_stream_on_the_same_samples(
    tagworld: Path, config: Callable[..., RunConfig], latents: str
) -> None:
    settings = config(data={"store": str(tagworld)}, unified={"batch": 8})
    ours = stored_stage(settings, Path(latents))
    for step in (0, 1):  # text to image, then editing
        batch, noise, t = ours.draw(step, 0)
        before = ours.state(step)
        loss, report = ours.loss(step, 0)
        drawn = ours._samples["edit" if step else "generate"].sampler.draw(0)  # type: ignore[union-attr]
        stream = EncodedSamples(
            ours.pipeline,
            EDITING if step else TEXT_TO_IMAGE,
            batch_size=8,
            seed=TAGWORLD_SEED,
            unique=64,
            folder=Path(latents),
            name="edit" if step else "generate",
        )
        theirs = stream.batch(numbers(tagworld, batch), blank=drawn.blank.tolist())
        ours._next = lambda *_, drawn=(theirs, noise, t): drawn  # type: ignore[method-assign]
        ours.restore(before, step)
        expected, terms = ours.loss(step, 0)
        del ours._next  # type: ignore[method-assign]
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        assert report == pytest.approx(terms, rel=1e-3, abs=1e-6)


def die(config: RunConfig, stage: str, recipe: Path) -> None:
    """A run in a process of its own that is killed before step 3 of a stage."""
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    process = subprocess.run([sys.executable, "-c", KILLED_RUN, str(recipe), stage, "3"], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


def fail(config: RunConfig, stage: str, run_training: Callable[..., Path], patch: pytest.MonkeyPatch) -> None:
    """A run that fails before step 3 of a stage."""
    original = loop.train_step

    def step_or_fail(now: Any, step: int, *rest: Any) -> Any:
        if now.name == stage and step == 3:
            raise OSError(28, "No space left on device")
        return original(now, step, *rest)

    with patch.context() as patched:
        patched.setattr(loop, "train_step", step_or_fail)
        with pytest.raises(TrainingError, match="disk is full"):
            run_training(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "killed"),
    [
        ("unified", False),
        pytest.param("base", True, marks=pytest.mark.slow),
        pytest.param("unified", True, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_stopped_goes_on_bit_for_bit_though_the_store_has_grown(
    stage: str,
    killed: bool,
    tagworld: Path,
    config: Callable[..., RunConfig],
    run_training: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "store"
    shutil.copytree(tagworld, place)
    settings = {
        "data": {"store": str(place), "weights": {"tagworld": 1.0}},
        **{"base": {"steps": 4}, "unified": {"steps": 4}, "save_every": 2},
    }
    whole, stopped = config("whole", **settings), config("stopped", **settings)
    expected = run_training(whole)
    if killed:
        die(stopped, stage, tmp_path / "recipe.yaml")
    else:
        fail(stopped, stage, run_training, monkeypatch)
    import_source(Store.open(place), TagWorldSource(30, TAGWORLD_SEED + 1, "editing"))
    resumed = run_training(stopped, resume=True)
    assert metrics(stopped) == metrics(whole)
    assert weights(resumed) == weights(expected)
    recorded = yaml.safe_load((Path(stopped.output_dir) / "config.resolved.yaml").read_text())
    assert recorded["data"]["version"] == Store.open(tagworld).version


@pytest.mark.slow
def test_weights_alone_mix_text_to_image_and_editing(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path]
) -> None:
    settings = {"data": {"store": str(tagworld)}, "base": {"steps": 0}}
    short, mixed = (config(**settings, unified={"steps": steps, "text_to_image_every": None}) for steps in (2, 16))
    run_training(short)
    stage = stored_stage(mixed, Path(mixed.output_dir))
    references = [stage.draw(step, 0)[0].reference_BTC is not None for step in range(16)]
    assert 8 <= sum(references) <= 12  # 40 of 64 rows edit: 10 of 16 steps, never 4 off
    assert len(load_file(Path(mixed.output_dir) / "model" / "alignment.safetensors")) > 0


@pytest.mark.slow
def test_accumulation_takes_the_samples_of_one_large_batch_in_order(
    tagworld: Path, config: Callable[..., RunConfig], latents: str
) -> None:
    stage = stored_stage(config(data={"store": str(tagworld)}, unified={"accumulate": 2, "steps": 9}), Path(latents))
    seen: dict[str, list[str]] = {"edit": [], "generate": []}
    for step in range(9):
        for micro in range(2):
            batch = stage.draw(step, micro)[0]
            seen["generate" if batch.reference_BTC is None else "edit"] += batch.samples  # type: ignore[arg-type]
    # 3 and 6 steps of 8: each row once before any comes again
    assert len(set(seen["generate"])) == len(seen["generate"]) or len(seen["generate"]) == 24
    assert len(seen["edit"]) == 48
    rows = len({*seen["edit"]})
    assert len(set(seen["edit"][:rows])) == rows >= 38


@pytest.mark.slow
def test_another_store_at_the_same_place_is_refused(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    place = tmp_path / "store"
    shutil.copytree(tagworld, place)
    run = config(data={"store": str(place)}, base={"steps": 0}, unified={"steps": 1})
    run_training(run)
    version = Store.open(place).version
    shutil.rmtree(place)
    other = Store.create(place)
    import_source(other, TagWorldSource(20, TAGWORLD_SEED, "editing"))
    import_source(other, TagWorldSource(24, TAGWORLD_SEED, "generate"))
    while Store.open(place).version < version:
        with other.writing():
            other.set_note("nothing", {"version": other.version})
    with pytest.raises(DataError, match="another order"):
        run_training(run, resume=True)


@pytest.mark.slow
def test_references_of_several_sizes_train_together(
    tagworld: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Two references of other sizes than the target, beside edits with one and text to image, in one stage."""

    def widened(record: Record) -> Record:
        if not record.images or int(record.id[0], 16) % 2:
            return record
        wide = Picture(picture(32, 48), 32, 48, "reference")
        return replace(record, images=(*record.images, wide, wide))

    store = changed(tagworld, tmp_path / "store", widened)
    settings = config(data={"store": str(store)}, unified={"text_to_image_every": None})
    stage = stored_stage(settings, tmp_path)
    wanted = {((4, 4),), ((4, 4),) * 2, ((4, 4), (4, 4), (3, 2), (3, 2))}
    shapes: set[Any] = set()
    for step in range(24):
        if shapes == wanted:
            break
        batch = stage.draw(step, 0)[0]
        assert batch.target_BTC.shape[1] == 16
        tokens = 0 if batch.reference_BTC is None else batch.reference_BTC.shape[1]
        assert tokens == sum(rows * columns for rows, columns in batch.grids[1:])
        if batch.grids not in shapes:
            loss, _ = stage.loss(step, 0)
            assert torch.isfinite(loss)
        shapes.add(batch.grids)
    assert shapes == wanted


def picture(width: int, height: int) -> bytes:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.slow
def test_rewritten_instructions_come_in_their_share(
    tagworld: Path, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    def rewritten(record: Record) -> Record:
        return replace(record, instruction="draw a red circle", instruction_rewritten="draw a blue square")

    store = changed(tagworld, tmp_path / "store", rewritten)
    pipeline = make_stage(config(), tmp_path).pipeline
    texts: list[str] = []
    encode = pipeline.encode_texts
    pipeline.encode_texts = lambda given, *seen, **options: texts.extend(given) or encode(given, *seen, **options)
    for share, wanted in ((0.0, {"draw a red circle"}), (1.0, {"draw a blue square"})):
        rows = StoredRows.open(DataConfig(store=str(store), rewritten_share=share))
        StoredSamples(pipeline, rows, "edit", batch=8, seed=0, dropout=0).draw(0)
        assert set(texts) == wanted
        texts.clear()


def refused(config: RunConfig, run: Callable[..., Path]) -> str:
    with pytest.raises(TagMoEError) as caught:
        run(config)
    assert not Path(config.output_dir).exists()
    return str(caught.value)


@pytest.mark.slow
def test_what_a_run_cannot_train_on_is_said_before_its_first_step(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    def text(name: str, change: Callable[[Record], Record] = lambda record: record, **data: Any) -> str:
        store = changed(tagworld, tmp_path / name, change)
        return refused(config(f"run-{name}", data={"store": str(store), **data}), run_training)

    assert "no text-to-image rows" in text("edits", lambda r: replace(r, images=r.images or (r.target,)))
    assert "no data set 'other'; it has tagworld" in text("names", weights={"other": 1})
    odd = lambda r: replace(r, target=Picture(picture(50, 64), 50, 64))  # noqa: E731
    assert "pictures of 50x64; this model trains on sides that are multiples of 16" in text("odd", odd)
    assert "There is no store" in refused(config("none", data={"store": str(tmp_path / "none")}), run_training)
    bare = text("untagged", lambda r: replace(r, tags=None, tag_provenance=None))
    assert "rows of the data set 'tagworld' have no tags, which the alignment loss" in bare
    assert "no version 999" in refused(config("v", data={"store": str(tagworld), "version": 999}), run_training)


@pytest.mark.slow
def test_rows_without_tags_train_without_the_alignment_loss(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    store = changed(tagworld, tmp_path / "store", lambda r: replace(r, tags=None, tag_provenance=None))
    settings = {"base": {"steps": 0}, "unified": {"steps": 2}, "loss": {"lambda_align": 0}}
    run = config(data={"store": str(store)}, **settings)
    model = run_training(run)
    assert [line["step"] for line in metrics(run)] == [1, 2]
    tagged = config("tagged", data={"store": str(tagworld)}, **settings)
    assert weights(model) == weights(run_training(tagged))


def test_a_store_of_damaged_records_is_refused(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    store = changed(
        tagworld, tmp_path / "store", lambda r: replace(r, target=replace(r.target, data=r.target.data[:60]))
    )
    with pytest.raises(DataError, match=r"The record [0-9a-f]{32} of the store .* cannot be trained on .*validate"):
        run_training(config(data={"store": str(store)}))


def with_damage(store: Path, place: Path, rows: list[int]) -> Path:
    """A copy of a store in which the target of these rows is cut off."""
    number = iter(range(len(Store.open(store))))

    def cut(record: Record) -> Record:
        target = replace(record.target, data=record.target.data[:60])
        return replace(record, target=target) if next(number) in rows else record

    return changed(store, place, cut)


def test_a_batch_is_drawn_without_its_damaged_record_and_counts_less(
    tagworld: Path, config: Callable[..., RunConfig], latents: str, tmp_path: Path
) -> None:
    pipeline = make_stage(config(), Path(latents)).pipeline

    def samples(store: Path) -> StoredSamples:
        rows = StoredRows.open(DataConfig(store=str(store)))
        return StoredSamples(pipeline, rows, "edit", batch=4, seed=0, dropout=0.0)

    drawn = samples(tagworld).sampler.draw(2)
    whole, bad = samples(tagworld).draw(2), int(drawn.rows[1])
    left = samples(with_damage(tagworld, tmp_path / "one", [bad]))
    found = left.draw(2)
    assert (found.share, found.numbers) == (0.75, (8, 10, 11))
    for name in ("target_BTC", "tags_BK", "edited_BT"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name)[[0, 2, 3]], rtol=1e-3, atol=1e-3)
    assert [sentence.startswith("The record ") for sentence in found.skipped] == [True]
    assert "cannot be trained on (" in found.skipped[0]
    first, second = (left.draw(2, rank=rank, count=2) for rank in (0, 1))
    assert (first.numbers, first.share, second.numbers, second.share) == ((8,), 0.5, (10, 11), 1.0)
    every = samples(with_damage(tagworld, tmp_path / "all", drawn.rows.tolist())).draw(2)
    assert (every.share, len(every.skipped), len(every.target_BTC)) == (0.0, 4, 1)


@pytest.mark.slow
def test_a_record_that_cannot_be_read_is_left_out_counted_and_listed(
    tagworld: Path, config: Callable[..., RunConfig], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    store = with_damage(tagworld, tmp_path / "store", [3, 17])
    settings: dict[str, Any] = {"base": {"steps": 0}, "unified": {"steps": 10, "text_to_image_every": 0}}
    run = config(data={"store": str(store)}, **settings)
    run_training(run)
    lines = (Path(run.output_dir) / "alarms.jsonl").read_text().splitlines()
    alarms = [one for line in lines if (one := json.loads(line))["kind"] == "sample"]
    assert ["so far: 1." in alarms[0]["what"], "so far: 2." in alarms[1]["what"], len(alarms)] == [True, True, 2]
    assert sum(line["samples"] for line in metrics(run)) == 38, "a pass over 40 edits"
    stopped = config("stopped", data={"store": str(store)}, watch={"bad_sample": "stop"}, **settings)
    with pytest.raises(
        TrainingError, match=r"stopped and saved at step \d+, because The record .* cannot be trained on"
    ):
        run_training(stopped)


def test_quarantined_rows_are_not_trained_on(tagworld: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    shutil.copytree(tagworld, place)
    store = Store.open(place)
    with store.writing():
        store.declare([pa.field("quarantine", pa.list_(pa.string()))])
        for number in store.fragments():
            count = sum(len(batch) for batch in store.fragment(number, ["id"]))
            bad = pa.array([["identical pictures"]] + [[]] * (count - 1), pa.list_(pa.string()))
            store.fill(number, pa.table({"quarantine": bad}))
    rows = StoredRows.open(DataConfig(store=str(place))).of_kind("all")["tagworld"]
    every = {row for numbers in rows.rows.values() for row in numbers.tolist()}
    assert every.isdisjoint({0, 40})
    assert len(every) >= 58


def test_a_missing_extra_is_named(config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'tagmoe\[data\]'"):
        StoredRows.open(DataConfig(store="somewhere"))


def test_settings_that_exclude_a_store_are_refused(config: Callable[..., RunConfig]) -> None:
    for changes, message in (
        ({"unified": {"edit_tasks": ["add"]}}, r"unified.edit_tasks"),
        ({"loss": {"align_tags": "other-task"}}, r"loss.align_tags"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(data={"store": "somewhere"}, **changes)
    with pytest.raises(ConfigError, match=r"unified.text_to_image_every' is null, which needs 'data.store'"):
        config(unified={"text_to_image_every": None})
    with pytest.raises(ConfigError, match=r"'data.weights' is"):
        config(data={"store": "somewhere", "weights": {"a": -1}})


def test_a_run_without_a_store_is_written_as_before(config: Callable[..., RunConfig]) -> None:
    plain = config()
    assert "data" not in plain.model_dump(mode="json")
    assert "data" not in json.loads(plain.model_dump_json())
    assert check_config(plain.model_dump(mode="json")) == plain
    with_store = config(data={"store": "somewhere"})
    assert with_store.model_dump(mode="json")["data"]["store"] == "somewhere"
    assert check_config(with_store.model_dump(mode="json")) == with_store
