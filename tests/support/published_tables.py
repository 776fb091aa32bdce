"""Tables in the forms in which benchmarks are published: Parquet, a DatasetDict on the disk, Arrow, JSON lines, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tagmoe.evaluate.benchmarks.benchmark import Benchmark, prepare
from tagmoe.evaluate.benchmarks.cases import Prepared, read_prepared


def png(colour: Any = "red", size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def struct(data: bytes) -> dict[str, Any]:
    """A picture as `datasets` stores it."""
    return {"bytes": data, "path": None}


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
    return file


def arrow(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """One Arrow stream, as `datasets` writes its files."""
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return file


def dataset_dict(folder: Path, rows: Sequence[Mapping[str, Any]], split: str = "train") -> Path:
    """What `DatasetDict.save_to_disk` writes, with a file of a cache beside it that is no data."""
    arrow(folder / split / "data-00000-of-00001.arrow", rows)
    arrow(folder / split / "cache-0123.arrow", rows)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
    (folder / split / "state.json").write_text(json.dumps(state))
    (folder / split / "dataset_info.json").write_text("{}")
    return folder


def json_lines(file: Path, rows: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def csv_file(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def prepared(benchmark: Benchmark, folder: Path) -> Prepared:
    """The benchmark, written and read back."""
    folder.mkdir(parents=True)
    prepare(benchmark, folder)
    return read_prepared(folder)


def reasons(found: Prepared) -> dict[str, str]:
    """Why rows were left out, by their ids."""
    return {one.id: one.reason for one in found.manifest.left_out}
