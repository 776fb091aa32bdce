"""The data path: how fast a store is filled, read at random and given new columns, beside Parquet and WebDataset.

    python benchmarks/data_path.py [--json] [--rows 2000] [--many 100000]

Pictures are random bytes behind a real PNG header. They cannot be compressed, so no format gains by compression.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import torch
from figures import Figure, report
from PIL import Image, ImageFilter
from train_speed import BATCH, seconds_a_step, stage

from tagmoe.config import DataConfig
from tagmoe.data.check.validate import validate
from tagmoe.data.encode import FIELDS, encode_store
from tagmoe.data.export import export
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.location import TABLE
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.train.encoder import encoder_of
from tagmoe.train.precision import resolve_precision
from tagmoe.train.stored import StoredRows, StoredSamples

PICTURE_BYTES = 55_000
"""About the size of a JPEG of 512x512 pixels."""
SMALL_BYTES = 2_000
READS = 200
TAGGED_ROWS = 20_000
ENCODED_ROWS = 2000
FULL_SIZE_ROWS = 128
STEPS = 400
CHECKED_ROWS = 100
BATCHES = 10
ROUNDS = 5


def measure(rows: int = 2000, many: int = 100_000) -> Sequence[Figure]:
    """Time import against a copy, random reads and a new column; measure memory over many rows. Paired wall times."""
    with tempfile.TemporaryDirectory(prefix="tagmoe-data-") as name:
        folder = Path(name)
        store = filled(folder / "store", rows, PICTURE_BYTES)
        return [
            *loading(folder),
            *importing(folder, store),
            *random_reads(folder, store),
            *new_column(folder),
            *full_size_rows(folder),
            *many_steps(folder),
            *validating(folder),
            *flat_memory(folder, many),
        ]


def picture(number: int, nbytes: int) -> Picture:
    """A picture file whose header says 512x512 pixels and whose data is noise."""
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 512, 512, 8, 2, 0, 0, 0))
    noise = np.random.default_rng(number).bytes(nbytes - len(head) - 12)
    return Picture(head + _chunk(b"IDAT", noise), 512, 512)


def records(count: int, nbytes: int) -> Iterator[Record]:
    """Edits of one source and one target."""
    for number in range(count):
        yield Record(
            id=record_id("bench", str(number)),
            dataset="bench",
            target=picture(2 * number, nbytes),
            images=(picture(2 * number + 1, nbytes),),
            instruction=f"make the thing number {number} blue",
            licence="CC0-1.0",
        )


def filled(path: Path, count: int, nbytes: int, batch: int = 1000) -> Store:
    """A store of `count` records."""
    store = Store.create(path)
    held: list[Record] = []
    with store.writing():
        for record in records(count, nbytes):
            held.append(record)
            if len(held) == batch:
                store.append(held)
                held = []
        store.append(held)
    return store


def loading(folder: Path) -> list[Figure]:
    """CPU time of drawing batches from an encoded store, beside that of the training steps that use them."""
    torch.set_num_threads(1)
    made = Store.create(folder / "tagworld")
    import_source(made, TagWorldSource(count=ENCODED_ROWS, seed=1))
    started = time.process_time()
    encode_store(made, *encoder_of(packaged_folder(), threads=1))
    encoding = (time.process_time() - started) / ENCODED_ROWS
    work = stage(True, folder / "cache")
    rows = StoredRows.open(DataConfig(store=made.uri), packaged_folder())
    samples = StoredSamples(work.pipeline, rows, "edit", batch=BATCH, seed=0, dropout=0.1)
    for number in range(3):
        samples.draw(number)
        work.draw(number + 1, 0)  # fill the latent cache outside the timing
    ratios, seconds = [], []
    # As training does: a processor without bf16 takes about ten times as long for such a step.
    precision = resolve_precision("auto")
    for round_number in range(ROUNDS):
        step = seconds_a_step(work, precision)
        started = time.process_time()
        for number in range(BATCHES):
            samples.draw(3 + round_number * BATCHES + number)
        seconds.append((time.process_time() - started) / BATCHES)
        ratios.append(step / seconds[-1])
    rate = BATCH / statistics.median(seconds)
    note = f"CPU time of a step in {precision} at the packaged model's size"
    return [
        Figure("loader", rate, "samples/s", runs=ROUNDS, note=f"encoded TagWorld, batch {BATCH}"),
        Figure("loader_to_training_step", statistics.median(ratios), "x", 5, True, ROUNDS, note),
        Figure("encode", 1000 * encoding, "ms/row", note="CPU, model loaded once, 64x64, source and target"),
    ]


def importing(folder: Path, store: Store) -> list[Figure]:
    """Import JSONL and picture files into a store, compared with copying the same files."""
    source = folder / "jsonl"
    source.mkdir()
    export(store, source, "jsonl")
    nbytes = size(source)
    ratios, seconds = [], []
    for _ in range(ROUNDS):
        copied, made = folder / "copy", folder / "imported"
        started = time.perf_counter()
        shutil.copytree(source, copied)
        os.sync()
        copy = time.perf_counter() - started
        started = time.perf_counter()
        lines = sorted(source.glob("*.jsonl"))
        for path in lines:
            import_source(Store.open_or_create(made), JsonlSource(path, licence="CC0-1.0"))
        os.sync()
        seconds.append(time.perf_counter() - started)
        ratios.append(seconds[-1] / copy)
        shutil.rmtree(copied)
        shutil.rmtree(made)
    rate = nbytes / statistics.median(seconds) / 1e6
    return [
        Figure(
            "import_to_file_copy", statistics.median(ratios), "x", runs=ROUNDS, note="JSONL, 2 pictures of 55 kB a row"
        ),
        Figure(
            "import_speed", rate, "MB/s", runs=ROUNDS, note=f"{len(store) / statistics.median(seconds):,.0f} rows/s"
        ),
    ]


def random_reads(folder: Path, store: Store) -> list[Figure]:
    """Single rows with their pictures, in random order."""
    parquet = {}
    for rows in (10, 100):
        parquet[rows] = folder / f"rows{rows}.parquet"
        with pyarrow.parquet.ParquetWriter(parquet[rows], store.schema) as writer:
            for batch in store.scan(rows=rows):
                writer.write_table(pa.Table.from_batches([batch]), row_group_size=rows)
    tars = folder / "tars"
    tars.mkdir()
    export(store, tars, "webdataset", shard_bytes=1 << 40)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"lance": [], "parquet, groups of 10": [], "parquet, groups of 100": []}
    for _ in range(ROUNDS):
        numbers = rng.permutation(len(store))[:READS]
        started = time.perf_counter()
        for number in numbers:
            store.take([number])
        times["lance"].append((time.perf_counter() - started) / READS)
        for rows, path in parquet.items():
            few = numbers[: READS // 10]
            started = time.perf_counter()
            with pyarrow.parquet.ParquetFile(path) as file:
                for number in few:
                    file.read_row_group(int(number) // rows).slice(int(number) % rows, 1)
            times[f"parquet, groups of {rows}"].append((time.perf_counter() - started) / len(few))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians.pop("lance")
    found = [Figure("random_row", 1000 * ours, "ms", runs=ROUNDS, note="store, 2 pictures of 55 kB")]
    for name, value in medians.items():
        title = f"times_faster_than_{name.replace(', ', '_').replace(' ', '_')}"
        note = f"pyarrow {version('pyarrow')}, {1000 * value:.1f} ms"
        # The hub writes row groups of 100. The bound holds against those only.
        wanted = 1 if name.endswith("100") else None
        found.append(Figure(title, value / ours, "x", wanted, True, ROUNDS, note))
    middle = _tar_row(next(tars.glob("train-*.tar")), len(store) // 2)
    note = f"webdataset {version('webdataset')} streams: {1000 * middle:.0f} ms to the row in the middle of a shard"
    found.append(Figure("times_faster_than_webdataset", middle / ours, "x", 1, True, 1, note))
    return found


def new_column(folder: Path) -> list[Figure]:
    """Add a tag column to 20,000 rows: time, bytes, and whether any file with pictures was rewritten."""
    path = folder / "tagged"
    store = filled(path, TAGGED_ROWS, SMALL_BYTES)
    before, nbytes = hashes(path), size(path)
    started = time.perf_counter()
    with store.writing():
        store.declare([pa.field("new_tags", pa.list_(pa.int8()))])
        for number in store.fragments():
            count = sum(len(batch) for batch in store.fragment(number, ["id"]))
            store.fill(number, pa.table({"new_tags": pa.array([[0, 6, 13]] * count, pa.list_(pa.int8()))}))
    seconds = time.perf_counter() - started
    changed = sum(hashes(path).get(name) != digest for name, digest in before.items())
    added = size(path) - nbytes
    shutil.rmtree(path)
    return [
        Figure("column_on_20000_rows", seconds, "s", note=f"{len(before)} fragments"),
        Figure("column_bytes_a_row", added / TAGGED_ROWS, "bytes", note=f"of {nbytes / TAGGED_ROWS:,.0f} a row"),
        Figure("files_rewritten", changed, "files", 0, note="by SHA-256 of every data file"),
    ]


def full_size_rows(folder: Path) -> list[Figure]:
    """Rows of the shape that Qwen-Image encodes at 1024x1024, with random values: bytes on disk, time of one read."""
    path = folder / "full-size"
    store = filled(path, FULL_SIZE_ROWS, SMALL_BYTES, batch=32)
    before, rng = size(path), np.random.default_rng(0)

    def noise(*shape: int) -> dict[str, object]:
        return {"data": rng.standard_normal(shape).astype(np.float16).tobytes(), "shape": list(shape)}

    with store.writing():
        store.declare(FIELDS)
        for number in store.fragments():
            rows = [
                {
                    "encoded_bucket": "1024x1024 1024x1024",
                    "encoded_target": noise(16, 128, 128),
                    "encoded_references": [noise(16, 128, 128)],
                    "encoded_instruction": noise(100, 3584),
                    "encoded_rewritten": noise(100, 3584),
                }
                for _ in range(store.fragment_rows(number))
            ]
            columns = {item.name: pa.array([row.get(item.name) for row in rows], item.type) for item in FIELDS}
            store.fill(number, pa.table(columns))
    nbytes = (size(path) - before) / FULL_SIZE_ROWS
    wanted = ["encoded_target", "encoded_references", "encoded_instruction"]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for number in rng.permutation(FULL_SIZE_ROWS)[:50]:
            store.take([int(number)], wanted)
        seconds.append((time.perf_counter() - started) / 50)
    shutil.rmtree(path)
    shape = "2 latents of 16x128x128, texts of 100x3584, float16"
    return [
        Figure("full_size_row", nbytes / 1e6, "MB", note=shape),
        Figure("full_size_random_row", 1000 * statistics.median(seconds), "ms", runs=ROUNDS, note="without rewritten"),
    ]


def many_steps(folder: Path) -> list[Figure]:
    """Manifest bytes for each fragment of the table, and the versions that are left after many commits."""
    path = folder / "steps"
    store = Store.create(path)
    with store.writing():
        for number, record in enumerate(records(STEPS, 200)):
            store.append([record], note=("bench", {"rows": number}))
    left = list((path / TABLE / "_versions").glob("*.manifest"))
    newest = max(file.stat().st_size for file in left)
    shutil.rmtree(path)
    return [
        Figure("version_bytes_a_fragment", newest / STEPS, "bytes", note="in every version of the table"),
        Figure("versions_left", len(left), "versions", 3, False, note=f"after {STEPS} batches with notes"),
    ]


def validating(folder: Path) -> list[Figure]:
    """CPU time of one worker that checks pairs of real JPEGs of 512x512 pixels, about 60 kB each."""
    store = Store.create(folder / "checked")
    edits = []
    for number in range(CHECKED_ROWS):
        noise = np.random.default_rng(number)
        blurred = Image.fromarray(np.kron(noise.integers(0, 255, (64, 64, 3)), np.ones((8, 8, 1))).astype(np.uint8))
        grain = noise.integers(0, 24, (512, 512, 3))
        before = np.clip(np.asarray(blurred.filter(ImageFilter.GaussianBlur(3))) + grain, 0, 255).astype(np.uint8)
        after = before.copy()
        after[100:220, 100:220] = (200, 30, 30)
        pictures = [Picture(_jpeg(pixels), 512, 512) for pixels in (before, after)]
        name = record_id("checked", str(number))
        edits.append(Record(name, "checked", pictures[1], "make the thing red", "CC0-1.0", images=(pictures[0],)))
    with store.writing():
        store.append(edits)
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        validate(store, workers=1, again=True)
        rates.append(2 * CHECKED_ROWS / (time.process_time() - started))
    note = "one worker; 200 a second on 2 cores are wanted"
    return [Figure("validate", statistics.median(rates), "images/s", 100, True, ROUNDS, note)]


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def flat_memory(folder: Path, many: int) -> list[Figure]:
    """Resident memory of an import in a process of its own, at a tenth of the rows and at the end."""
    source = folder / "many.jsonl"
    shared = folder / "many"
    shared.mkdir()
    # All rows share 100 files: memory is measured here, not the file system.
    for number in range(100):
        (shared / f"{number}.png").write_bytes(picture(number, SMALL_BYTES).data)
    with source.open("w", encoding="utf-8") as lines:
        for number in range(many):
            row = {"instruction": f"edit {number}", "input_images": [f"many/{number % 100}.png"]}
            lines.write(json.dumps({**row, "output_image": f"many/{(number + 1) % 100}.png"}) + "\n")
    command = [sys.executable, __file__, "--watch", str(source), str(folder / "imported")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    early, late, rows = json.loads(done.stdout)
    return [
        Figure("memory_growth", (late - early) / 1e6, "MB", 60, note=f"from row {rows // 10:,} to row {rows:,}"),
        Figure("memory_of_import", late / 1e6, "MB", note="resident, largest at the end"),
    ]


def watch(source: str, target: str) -> None:
    """Import. Print the resident bytes at a tenth of the rows, and their peak over the last tenth."""
    process = psutil.Process()
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0:
            seen.append((done, process.memory_info().rss))

    import_source(Store.create(target), JsonlSource(Path(source), licence="CC0-1.0"), progress=note)
    rows = seen[-1][0]
    early = max(rss for done, rss in seen if done <= rows / 10)
    late = max(rss for done, rss in seen if done >= 0.9 * rows)
    print(json.dumps([early, late, rows]))


def hashes(path: Path) -> dict[str, str]:
    """Every data file of a store with its SHA-256."""
    files = (path / TABLE / "data").rglob("*.lance")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _tar_row(path: Path, number: int) -> float:
    import webdataset

    started = time.perf_counter()
    for place, _ in enumerate(webdataset.WebDataset(str(path), shardshuffle=False)):
        if place == number:
            break
    return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watch(*sys.argv[2:])
    else:
        report(
            measure,
            {
                "rows": {"type": int, "default": 2000, "help": "rows of the comparison"},
                "many": {"type": int, "default": 100_000, "help": "rows over which memory must stay flat"},
            },
        )
