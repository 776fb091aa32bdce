"""Import of each layout of rows, beside a plain loop that reads the same rows and pictures and writes one Lance table.

    python benchmarks/import_layouts.py [--json] [--rows 10000] [--runs 3]

Both are timed in pairs in one run, one after the other, and each to the end of its writes. The loop does not resume,
tell what is known already, or say what it skipped.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
from data_path import picture
from figures import Figure, report

from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.data.sources.source import Source
from tagmoe.data.sources.webdataset import WebdatasetSource
from tagmoe.data.store.store import Store

PICTURE_BYTES = 20_000
FILES = 500
"""Picture files that the rows share: what is measured is reading rows, not making files."""
BATCH = 1000
MAP = {"instruction": "text", "source": "before", "target": "after"}
Rows = Iterator[tuple[str, bytes, bytes]]
SCHEMA = pa.schema([("text", pa.string()), ("before", pa.large_binary()), ("after", pa.large_binary())])


def measure(rows: int = 10_000, runs: int = 3) -> Sequence[Figure]:
    """Rows a second of an import in each layout, and its ratio to the plain loop: medians of pairs."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tagmoe-layouts-") as name:
        folder = Path(name)
        (folder / "p").mkdir()
        for number in range(FILES):
            (folder / "p" / f"{number}.png").write_bytes(picture(number, PICTURE_BYTES).data)
        for layout, (make, read, opened) in LAYOUTS.items():
            file = make(folder, rows)
            times = []
            for _ in range(runs):
                plain = _timed(lambda read=read, file=file: _write(read(file), folder / "plain.lance"))
                shutil.rmtree(folder / "plain.lance")
                source = opened(file)
                ours = _timed(lambda source=source: import_source(Store.create(folder / "store"), source))
                shutil.rmtree(folder / "store")
                times.append((plain, ours))
            plain, ours = (median(column) for column in zip(*times, strict=True))
            ratio = median(plain / ours for plain, ours in times)
            file.unlink()
            note = f"{rows:,} rows, 2 pictures of {PICTURE_BYTES // 1000} kB; loop {rows / plain:,.0f} rows/s"
            found.append(Figure(f"import_{layout}", rows / ours, "rows/s", runs=runs, note=note))
            found.append(Figure(f"import_{layout}_to_plain_loop", ratio, "x", 0.5, True, runs=runs))
    return found


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    os.sync()
    return time.perf_counter() - started


def _write(rows: Rows, target: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        held: list[dict[str, Any]] = []
        for text, before, after in rows:
            held.append({"text": text, "before": before, "after": after})
            if len(held) == BATCH:
                yield pa.RecordBatch.from_pylist(held, schema=SCHEMA)
                held.clear()
        yield pa.RecordBatch.from_pylist(held, schema=SCHEMA)

    lance.write_dataset(pa.RecordBatchReader.from_batches(SCHEMA, batches()), str(target))


def _lines(count: int) -> list[dict[str, str]]:
    return [
        {"text": f"edit {n}", "before": f"p/{2 * n % FILES}.png", "after": f"p/{(2 * n + 1) % FILES}.png"}
        for n in range(count)
    ]


def _of_paths(folder: Path, rows: Sequence[dict[str, str]]) -> Rows:
    for row in rows:
        yield row["text"], (folder / row["before"]).read_bytes(), (folder / row["after"]).read_bytes()


def _jsonl(folder: Path, count: int) -> Path:
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _lines(count)))
    return folder / "x.jsonl"


def _json(folder: Path, count: int) -> Path:
    (folder / "x.json").write_text(json.dumps(_lines(count)))
    return folder / "x.json"


def _gzipped(folder: Path, count: int) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in _lines(count))
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "x.jsonl.gz"


def _paths(folder: Path, count: int) -> Path:
    pq.write_table(pa.Table.from_pylist(_lines(count)), folder / "paths.parquet", row_group_size=100)
    return folder / "paths.parquet"


def _bytes(folder: Path, count: int) -> Path:
    with pq.ParquetWriter(folder / "bytes.parquet", SCHEMA) as writer:
        for start in range(0, count, 100):
            found = _of_paths(folder, _lines(count)[start : start + 100])
            rows = [{"text": text, "before": before, "after": after} for text, before, after in found]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    return folder / "bytes.parquet"


def _tar(folder: Path, count: int) -> Path:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for number, (text, before, after) in enumerate(_of_paths(folder, _lines(count))):
            for name, data in (("txt", text.encode()), ("before.png", before), ("after.png", after)):
                item = tarfile.TarInfo(f"{number:06d}.{name}")
                item.size = len(data)
                tar.addfile(item, io.BytesIO(data))
    return folder / "x.tar"


def _read_parquet(file: Path) -> Rows:
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(16):
            for row in batch.to_pylist():
                yield row["text"], row["before"], row["after"]


def _read_tar(file: Path) -> Rows:
    with tarfile.open(file) as tar:
        held: list[bytes] = []
        for item in tar:
            handle = tar.extractfile(item)
            assert handle is not None
            held.append(handle.read())
            if len(held) == 3:
                yield held[0].decode(), held[1], held[2]
                held = []


def _json_source(file: Path) -> Source:
    return JsonlSource(file, licence="CC0-1.0", map=MAP)


LAYOUTS: dict[str, tuple[Callable[[Path, int], Path], Callable[[Path], Rows], Callable[[Path], Source]]] = {
    "jsonl": (
        _jsonl,
        lambda file: _of_paths(file.parent, [json.loads(line) for line in file.open()]),
        _json_source,
    ),
    "json_array": (_json, lambda file: _of_paths(file.parent, json.loads(file.read_text())), _json_source),
    "jsonl_gz": (
        _gzipped,
        lambda file: _of_paths(
            file.parent, [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        ),
        _json_source,
    ),
    "parquet_paths": (
        _paths,
        lambda file: _of_paths(file.parent, pq.read_table(file).to_pylist()),
        lambda file: ParquetSource(file, licence="CC0-1.0", map=MAP),
    ),
    "parquet_bytes": (_bytes, _read_parquet, lambda file: ParquetSource(file, licence="CC0-1.0", map=MAP)),
    "webdataset": (
        _tar,
        _read_tar,
        lambda file: WebdatasetSource(
            file, licence="CC0-1.0", map={"instruction": "txt", "source": "before", "target": "after"}
        ),
    ),
}


if __name__ == "__main__":
    options = {"rows": (10_000, "rows of each layout"), "runs": (3, "pairs of a loop and an import of each layout")}
    report(measure, {name: {"type": int, "default": value, "help": text} for name, (value, text) in options.items()})
