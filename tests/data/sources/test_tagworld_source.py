"""TagWorld in a store: what the stream gives, lossless, and an import of it that goes on after a stop."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tagmoe.cli import app
from tagmoe.data.order.rows import rows_by_bucket
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.registry import open_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.record import from_row, to_row
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.world import TASKS, sample


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("tasks", [None, "editing", "generate", "recolour,structure"])
def test_records_are_the_samples_of_the_stream(tasks: str | None) -> None:
    names = {None: None, "editing": tuple(TASKS)[1:]}.get(tasks, tuple((tasks or "").split(",")))
    source = TagWorldSource(12, seed=3, tasks=tasks)
    for number, row in enumerate(source.rows()):
        (record,) = row.records
        drawn = sample(3, number, task=names)
        assert row.next == number + 1
        assert (record.instruction, record.native_task, record.tags) == (
            drawn.instruction,
            drawn.task,
            drawn.tags.indices,
        )
        assert (pixels(record.target.data) == drawn.target).all()
        references = [picture for picture in record.images if picture.role != "mask"]
        masks = [picture for picture in record.images if picture.role == "mask"]
        assert [(pixels(a.data) == b).all() for a, b in zip(references, drawn.sources, strict=True)] == [True] * len(
            drawn.sources
        )
        assert len(masks) == len(references)
        assert all(((pixels(mask.data) == 255) == drawn.mask).all() for mask in masks)
        assert from_row(to_row(record)) == record
        assert record.tag_provenance is not None
        assert record.tag_provenance.annotator == "oracle"


def test_ids_tell_samples_apart_and_stay() -> None:
    def ids(**options) -> list[str]:
        return [row.records[0].id for row in TagWorldSource(5, **options).rows()]

    assert ids(seed=1) == ids(seed=1)
    every = [*ids(seed=1), *ids(seed=2), *ids(seed=1, tasks="generate"), *ids(seed=1, tasks="editing")]
    assert len(set(every)) == 20


def test_rows_start_anywhere_and_an_import_grows(tmp_path: Path) -> None:
    whole = list(TagWorldSource(8).rows())
    assert list(TagWorldSource(8).rows(5)) == whole[5:]
    store = Store.create(tmp_path / "s")
    import_source(store, TagWorldSource(5))
    found = import_source(store, TagWorldSource(8))  # more of the same: what is there stays
    assert (found.accepted, dict(found.skipped)) == (3, {"already in the store": 5})
    assert store.records(range(8)) == [row.records[0] for row in whole]


def test_the_command_makes_a_store_with_both_kinds_of_rows(tmp_path: Path) -> None:
    target = str(tmp_path / "s")
    for extra in (["--set", "tasks=editing"], ["--set", "tasks=generate"]):
        command = ["data", "import", "tagworld", target, "--count", "6", "--seed", "2", "--json", *extra]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] == 12
    rows: Counter[str] = Counter()
    for split in ("train", "validation"):
        found = rows_by_bucket(Store.open(target), split=split)["tagworld"].rows
        rows.update({bucket: len(numbers) for bucket, numbers in found.items()})
    assert rows == {"64x64": 6, "64x64 64x64": 6}


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="--count"):
        open_source("tagworld")
    with pytest.raises(UsageError, match=r"Unknown TagWorld task 'paint'; choose among editing, generate"):
        open_source("tagworld", None, {"count": 3, "tasks": "add,paint"})
    with pytest.raises(UsageError, match="takes no path"):
        open_source("tagworld", Path("here"), {"count": 3})
    with pytest.raises(UsageError, match="0 samples"):
        TagWorldSource(0)
