"""What is exported comes back as the same records, other tools read it, and the same store gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.edit_files import jsonl_folder, picture_bytes
from support.stored_content import content_hash

from tagmoe.data.export import Format, export
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.registry import open_source
from tagmoe.data.store.record import OPERATIONS, ROLES, Picture, Record, TagProvenance, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError

PICTURES = [
    picture_bytes(number, kind, size)
    for number, (kind, size) in enumerate(
        (("PNG", (8, 6)), ("JPEG", (5, 9)), ("WEBP", (7, 7)), ("GIF", (3, 4)), ("BMP", (2, 2)), ("TIFF", (4, 1)))
    )
]
TEXT = st.text(max_size=30)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def pictures(draw, role=None) -> Picture:
    return Picture.of(draw(st.sampled_from(PICTURES)), role or draw(st.sampled_from(ROLES)))


@st.composite
def records(draw) -> Record:
    provenance = st.builds(TagProvenance, TEXT, TEXT, TEXT, st.integers(-(2**63), 2**63 - 1), TEXT)
    return Record(
        id=draw(HEX)[:32],
        dataset=draw(TEXT),
        target=draw(pictures("source")),
        instruction=draw(TEXT),
        licence=draw(st.sampled_from(["MIT", "CC-BY-NC-4.0", "none"])),
        images=tuple(draw(st.lists(pictures(), max_size=3))),
        instructions=tuple(draw(st.lists(TEXT, max_size=2))),
        instruction_rewritten=draw(st.none() | TEXT),
        caption_source=draw(st.none() | TEXT),
        caption_target=draw(st.none() | TEXT),
        native_task=draw(TEXT),
        quality=draw(st.dictionaries(TEXT, st.floats(), max_size=3)),
        origin=draw(TEXT),
        root=draw(st.just("") | HEX),
        parent=draw(st.none() | HEX.map(lambda text: text[:32])),
        operation=draw(st.sampled_from(OPERATIONS)),
        tags=draw(st.none() | st.sets(st.integers(0, 17), max_size=5).map(lambda found: tuple(sorted(found)))),
        tag_provenance=draw(st.none() | provenance),
    )


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_records=st.lists(records(), min_size=1, max_size=6, unique_by=lambda record: record.id))
def test_jsonl_and_parquet_come_back_as_they_were(given_records):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.create(folder / "s")
        with store.writing():
            store.append(given_records)
        for kind in ("jsonl", "parquet"):
            (folder / kind).mkdir()
            done = export(store, folder / kind, kind, shard_bytes=300)
            back = Store.create(folder / f"{kind}-store")
            found = import_source(back, open_source(kind, folder / kind), accepted_licences=["CC-BY-NC-4.0", "none"])
            assert (found.accepted, found.skipped) == (done.records, {}) == (len(given_records), {})
            assert content_hash(back) == content_hash(store)


def filled(folder: Path, count: int = 30, **changes) -> Store:
    store = Store.create(folder)
    with store.writing():
        store.append(
            Record(
                **{
                    "id": record_id("test", str(number)),
                    "dataset": f"set {number % 3}",
                    "target": Picture.of(picture_bytes(2 * number + 1)),
                    "instruction": f"edit {number}",
                    "licence": "MIT",
                    "images": (
                        Picture.of(picture_bytes(2 * (number // 2))),
                        Picture.of(picture_bytes(1, "JPEG"), "mask"),
                    ),
                    "quality": {"clip": 0.5},
                    "tags": (0, 6, 13),
                    # one record of the other split
                    "root": "00" * 32 if number == 4 else "",
                    **changes,
                }
            )
            for number in range(count)
        )
    return store


def exported(store: Store, folder: Path, kind, **options) -> Path:
    folder.mkdir()
    export(store, folder, kind, **options)
    return folder


def bytes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", get_args(Format))
def test_the_same_store_gives_the_same_bytes(tmp_path, kind):
    store = filled(tmp_path / "s")
    one = exported(store, tmp_path / "a", kind, shard_bytes=4000)
    other = exported(Store.open(tmp_path / "s"), tmp_path / "b", kind, shard_bytes=4000)
    assert bytes_of(one) == bytes_of(other)
    assert sum("train-" in name for name in bytes_of(one)) >= 3
    assert sum("validation-" in name for name in bytes_of(one)) == 1


def test_a_filter_and_the_progress(tmp_path):
    store = filled(tmp_path / "s", 9)
    seen = []
    (tmp_path / "a").mkdir()
    done = export(store, tmp_path / "a", "jsonl", where="dataset = 'set 1'", progress=lambda *n: seen.append(n))
    assert (done.records, seen) == (3, [(1, 0), (2, 0), (3, 0)])
    lines = [json.loads(text) for file in (tmp_path / "a").glob("*.jsonl") for text in file.read_text().splitlines()]
    assert {line["dataset"] for line in lines} == {"set 1"}
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="no record where dataset"):
        export(store, tmp_path / "b", "jsonl", where="dataset = 'set 7'")


def test_a_shared_picture_is_written_once(tmp_path):
    folder = exported(filled(tmp_path / "s", 10), tmp_path / "a", "jsonl")
    # ten targets, five sources that two records each share, one mask
    assert len(list((folder / "images").rglob("*.*"))) == 16


def test_datasets_reads_the_parquet_files(tmp_path):
    from datasets import Features, load_dataset

    folder = exported(filled(tmp_path / "s"), tmp_path / "a", "parquet", shard_bytes=4000)
    files = {split: str(folder / "data" / f"{split}-*.parquet") for split in ("train", "validation")}
    found = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 29, "validation": 1}
    row = found["train"][3]
    assert row["instruction"] == "edit 3"
    assert [picture.size for picture in row["input_images"]] == [(8, 6), (8, 6)]
    with Image.open(io.BytesIO(picture_bytes(7))) as target:
        assert np.array_equal(np.asarray(row["output_image"]), np.asarray(target))
    assert row["tags"] == ["local editing", "object editing", "background preservation"]
    kinds = found["train"].features
    assert isinstance(kinds, Features)
    assert (kinds["output_image"].__class__.__name__, kinds["input_images"].feature.__class__.__name__) == (
        "Image",
        "Image",
    )


def test_webdataset_reads_the_tar_files(tmp_path):
    import webdataset

    folder = exported(filled(tmp_path / "s"), tmp_path / "a", "webdataset", shard_bytes=4000)
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(rows) == 29
    about = json.loads(rows[3]["json"])
    assert about["id"] == rows[3]["__key__"]
    assert (rows[3][about["output_image"]], about["input_roles"]) == (picture_bytes(7), ["source", "mask"])
    assert [rows[3][name] for name in about["input_images"]] == [picture_bytes(2), picture_bytes(1, "JPEG")]


def test_what_is_no_picture_still_comes_out(tmp_path):
    store = filled(tmp_path / "s", 1, target=Picture(b"rubbish", 4, 3))
    folder = exported(store, tmp_path / "a", "jsonl")
    assert [path.read_bytes() for path in folder.rglob("*.bin")] == [b"rubbish"]


def test_records_in_quarantine_stay_behind_and_findings_and_annotations_are_written(tmp_path):
    store = Store.create(tmp_path / "s")
    import_source(store, JsonlSource(jsonl_folder(tmp_path / "e", 4), licence="MIT"))
    answer = pa.field("annotation_rules", pa.struct([("status", pa.string()), ("tags", pa.list_(pa.int8()))]))
    with store.writing():
        (number,) = store.fragments()
        store.declare([pa.field("quarantine", pa.list_(pa.string())), answer, pa.field("encoded_error", pa.string())])
        names = pa.array([[], ["tiny"], None, []], pa.list_(pa.string()))
        answers = pa.array([{"status": "ok", "tags": [1]}, None, None, None], answer.type)
        store.fill(number, pa.table({"quarantine": names, "annotation_rules": answers}))
    for kind in ("jsonl", "parquet", "webdataset"):
        (tmp_path / kind).mkdir()
        found = export(store, tmp_path / kind, kind)
        assert (found.records, found.left_out) == (3, 1)
        (tmp_path / f"all-{kind}").mkdir()
        assert export(store, tmp_path / f"all-{kind}", kind, quarantined=True).records == 4
    texts = [file.read_text() for file in (tmp_path / "all-jsonl").glob("*.jsonl")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [line.get("quarantine") for line in lines] == [[], ["tiny"], None, []]
    assert lines[0]["annotation_rules"] == {"status": "ok", "tags": [1]}
    assert not any(name.startswith("encoded_") for line in lines for name in line)
    (file,) = (tmp_path / "all-parquet").rglob("*.parquet")
    assert pq.read_table(file)["quarantine"].to_pylist() == [[], ["tiny"], None, []]
