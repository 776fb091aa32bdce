"""Which rows of a store are trained on, and in which bucket they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tagmoe.data.order.rows import bucket_name, bucket_sizes, rows_by_bucket
from tagmoe.data.order.sampler import Sampler
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError


def record(number: int, dataset: str = "a", references: tuple[tuple[int, int], ...] = (), mask: bool = False) -> Record:
    images = [Picture(b"%d %d" % (number, place), *size) for place, size in enumerate(references)]
    if mask:
        images.insert(0, Picture(b"mask", 64, 64, "mask"))
    return Record(
        id=record_id(dataset, str(number)),
        dataset=dataset,
        target=Picture(b"target %d" % number, 64, 32),
        instruction=f"do {number}",
        licence="MIT",
        images=tuple(images),
        root=f"{number:0>8x}".rjust(64, "f"),  # the root decides the split: this one is train
    )


def validation(number: int) -> Record:
    return replace(record(number), root="0" * 64)


def filled(path: Path, *parts: list[Record]) -> Store:
    store = Store.create(path)
    with store.writing():
        for part in parts:
            store.append(part)
    return store


def plain(store: Store, **settings) -> dict[str, tuple[float, dict[str, list[int]]]]:
    found = rows_by_bucket(store, **settings)
    return {name: (source.weight, {b: r.tolist() for b, r in source.rows.items()}) for name, source in found.items()}


def test_buckets_are_sizes_of_target_and_references(tmp_path: Path) -> None:
    store = filled(
        tmp_path / "s",
        [record(0), record(1, references=((64, 64),)), validation(2)],
        [record(3, "b", references=((64, 64), (32, 16)), mask=True), record(4), record(5, references=((64, 64),))],
    )
    assert plain(store) == {
        "a": (4.0, {"64x32": [0, 4], "64x32 64x64": [1, 5]}),
        "b": (1.0, {"64x32 64x64 32x16": [3]}),
    }
    assert plain(store, split="validation") == {"a": (1.0, {"64x32": [2]}), "b": (0.0, {})}
    assert bucket_sizes("64x32 64x64 32x16") == [(64, 32), (64, 64), (32, 16)]
    assert bucket_name((64, 32), [(64, 64), (32, 16)]) == "64x32 64x64 32x16"


def test_only_what_has_a_weight_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [record(0), record(1, "b"), record(2, "c")])
    assert plain(store, weights={"c": 0.3, "a": 1}) == {"a": (1, {"64x32": [0]}), "c": (0.3, {"64x32": [2]})}
    with pytest.raises(UsageError, match=r"has no data set 'd'; it has a, b, c"):
        rows_by_bucket(store, weights={"d": 1.0})


def test_quarantined_rows_are_left_out_and_unchecked_ones_are_not(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [record(number) for number in range(3)], [record(3)])
    with store.writing():
        store.declare([pa.field("quarantine", pa.list_(pa.string()))])
        bad = pa.array([[], ["truncated picture"], None], pa.list_(pa.string()))
        store.fill(store.fragments()[0], pa.table({"quarantine": bad}))
    assert plain(store) == {"a": (3.0, {"64x32": [0, 2, 3]})}


def test_rows_added_later_are_not_seen_at_the_version_of_the_run(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [record(number) for number in range(5)])
    version = store.version
    before = Sampler(rows_by_bucket(store), batch=4, seed=1, version=version)
    with store.writing():
        store.append([record(number, "b") for number in range(5, 8)])
        store.declare([pa.field("note", pa.string())])
    again = Store.open(tmp_path / "s", version=version)
    after = Sampler(rows_by_bucket(again), batch=4, seed=1, version=again.version)
    assert after.resume(before.state(9)) == 9
    assert [after.draw(n).rows.tolist() for n in range(9)] == [before.draw(n).rows.tolist() for n in range(9)]
    now = Store.open(tmp_path / "s")
    with pytest.raises(DataError, match="another order"):
        Sampler(rows_by_bucket(now), batch=4, seed=1, version=now.version).resume(before.state(9))


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert rows_by_bucket(Store.create(tmp_path / "s")) == {}
