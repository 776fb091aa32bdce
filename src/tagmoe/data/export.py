"""Export a store to files of common formats: JSONL and pictures, Hugging Face Parquet, WebDataset tar.

The same store gives the same files, byte for byte. `tagmoe data import` reads JSONL and Parquet back as the same
records. Each split has its own files, cut into shards.

jsonl        train-00000.jsonl ..., images/ab/SHA256.png (a picture that several records share is written once)
parquet      data/train-00000-of-00007.parquet ..., as datasets.load_dataset reads it, pictures as Image
webdataset   train-000000.tar ..., per record ID.json, ID.image0.png ..., ID.target.png
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet

from tagmoe.data.store.fields import finite_or_text, to_fields
from tagmoe.data.store.record import QUALITY, SCHEMA, Picture, Record, from_row
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, ImageError
from tagmoe.extras import require
from tagmoe.files.json_lines import json_line
from tagmoe.pictures import read_header

Format = Literal["jsonl", "parquet", "webdataset"]
FILES = ("*.jsonl", "images", "data", "*.tar")
"""Patterns of the files and folders that an export writes."""
ENCODED = "encoded_"
"""Beginning of the names of columns that encoding fills."""
SHARD_BYTES = 512 << 20
SCAN_ROWS = 32
GROUP_ROWS = 100
GROUP_BYTES = 32 << 20
"""Size of a Parquet row group, the smallest part that a reader loads; these are the limits of the hub's viewer."""

_HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_HF_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("instruction", pa.string()),
        ("instructions", pa.list_(pa.string())),
        ("languages", pa.list_(pa.string())),
        ("turn", pa.int32()),
        ("instruction_rewritten", pa.string()),
        ("caption_source", pa.string()),
        ("caption_target", pa.string()),
        ("native_task", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("tag_provenance", SCHEMA.field("tag_provenance").type),
        ("quality", QUALITY),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("root", pa.string()),
        ("parent", pa.string()),
        ("operation", pa.string()),
        ("input_roles", pa.list_(pa.string())),
        ("input_images", pa.list_(_HF_IMAGE)),
        ("output_image", _HF_IMAGE),
    ]
)


@dataclass(frozen=True)
class Exported:
    """What was written: records, files and bytes of all files. left_out: records in quarantine."""

    records: int
    files: int
    bytes: int
    left_out: int = 0


def export(
    store: Store,
    folder: Path,
    kind: Format,
    *,
    where: str | None = None,
    quarantined: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write records into an empty folder.

    where: SQL filter; by default all records are written. quarantined: write records in quarantine, too. Columns of the
    store beside those of a record, such as `quarantine` and annotations, are written under their names, without those
    of encoding, which belong to a store. shard_bytes: bytes of pictures after which a new shard
    begins. progress: called with rows done and all.

    Raises DataError when no record is kept or the store is damaged, MissingError without webdataset, and OSError when
    the folder cannot be written. The caller must then delete the folder.
    """
    extra = [field for field in store.schema if field.name not in SCHEMA.names and not field.name.startswith(ENCODED)]
    shards = _Shards(folder, kind, shard_bytes, extra)
    done = left_out = 0
    try:
        for row in _rows(store, where, extra):
            if row.get("quarantine") and not quarantined:
                left_out += 1
                continue
            shards.add(from_row(row), {field.name: row[field.name] for field in extra})
            done += 1
            if progress is not None:
                progress(done + left_out, len(store) if where is None else 0)
    finally:
        shards.close()
    if not done:
        hidden = f"; {left_out:,} are in quarantine (--with-quarantine)" if left_out else ""
        raise DataError(f"The store {store.uri!r} has no record{'' if where is None else f' where {where}'}{hidden}.")
    if kind == "parquet":
        _number_shards(folder / "data")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Exported(done, len(files), sum(path.stat().st_size for path in files), left_out)


def _rows(store: Store, where: str | None, extra: Sequence[pa.Field]) -> Iterator[dict[str, Any]]:
    columns = [*store.record_columns, *(field.name for field in extra)]
    for batch in store.scan(columns, where=where, rows=SCAN_ROWS):
        yield from batch.to_pylist()


class _Shards:
    """The open shard of each split."""

    def __init__(self, folder: Path, kind: Format, shard_bytes: int, extra: Sequence[pa.Field]) -> None:
        self._folder, self._kind, self._shard_bytes, self._extra = folder, kind, shard_bytes, extra
        self._open: dict[str, _Shard] = {}
        self._bytes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def add(self, record: Record, more: Mapping[str, Any]) -> None:
        split = record.split
        if split in self._open and self._bytes[split] >= self._shard_bytes:
            self._open.pop(split).close()
        if split not in self._open:
            self._open[split] = _SHARDS[self._kind](self._folder, split, self._count[split], self._extra)
            self._bytes[split], self._count[split] = 0, self._count[split] + 1
        self._open[split].add(record, more)
        self._bytes[split] += record.nbytes

    def close(self) -> None:
        for shard in self._open.values():
            shard.close()


class _JsonlShard:
    def __init__(self, folder: Path, split: str, number: int, extra: Sequence[pa.Field]) -> None:
        self._folder = folder
        self._lines = (folder / f"{split}-{number:05d}.jsonl").open("w", encoding="utf-8", newline="\n")

    def add(self, record: Record, more: Mapping[str, Any]) -> None:
        line = {
            **_json_fields(record),
            **_json_values(more),
            "input_images": [self._picture(picture) for picture in record.images],
            "output_image": self._picture(record.target),
        }
        self._lines.write(json_line(line))

    def close(self) -> None:
        self._lines.close()

    def _picture(self, picture: Picture) -> str:
        name = f"images/{picture.digest[:2]}/{_file_name(picture)}"
        path = self._folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.data)
        return name


class _ParquetShard:
    def __init__(self, folder: Path, split: str, number: int, extra: Sequence[pa.Field]) -> None:
        (folder / "data").mkdir(exist_ok=True)
        self._schema = pa.schema([*_HF_SCHEMA, *extra])
        columns = {field.name: _feature(field.type) for field in self._schema}
        features = json.dumps({"info": {"features": columns}}, sort_keys=True)
        schema = self._schema.with_metadata({"huggingface": features})
        self._writer = pyarrow.parquet.ParquetWriter(folder / "data" / f"{split}-{number:05d}.parquet", schema)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, record: Record, more: Mapping[str, Any]) -> None:
        fields = to_fields(record)
        self._rows.append(
            {
                **fields,
                **more,
                "quality": [{"name": name, "value": value} for name, value in fields["quality"].items()],
                "input_roles": [picture.role for picture in record.images],
                "input_images": [_hf_image(picture) for picture in record.images],
                "output_image": _hf_image(record.target),
            }
        )
        self._bytes += record.nbytes
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write()

    def close(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


class _TarShard:
    def __init__(self, folder: Path, split: str, number: int, extra: Sequence[pa.Field]) -> None:
        require("data", "webdataset", purpose="The format webdataset")
        from webdataset import TarWriter

        self._handle = (folder / f"{split}-{number:06d}.tar").open("wb")
        # encoder=False writes bytes unchanged. A fixed mtime makes equal records give equal files.
        self._tar = TarWriter(self._handle, encoder=False, mtime=0)

    def add(self, record: Record, more: Mapping[str, Any]) -> None:
        inputs = {f"image{number}.{_ending(picture)}": picture for number, picture in enumerate(record.images)}
        target = f"target.{_ending(record.target)}"
        about = {**_json_fields(record), **_json_values(more), "input_images": list(inputs), "output_image": target}
        self._tar.write(
            {
                "__key__": record.id,
                "json": json_line(about).encode(),
                **{name: picture.data for name, picture in inputs.items()},
                target: record.target.data,
            }
        )

    def close(self) -> None:
        self._tar.close()
        self._handle.close()


_Shard = _JsonlShard | _ParquetShard | _TarShard
_SHARDS: dict[Format, type[_Shard]] = {"jsonl": _JsonlShard, "parquet": _ParquetShard, "webdataset": _TarShard}


def _json_fields(record: Record) -> dict[str, Any]:
    fields = to_fields(record)
    fields["quality"] = {name: finite_or_text(value) for name, value in fields["quality"].items()}
    # Keep "tags" always: [] says that no tag applies, null that the record is not annotated.
    given = {name: value for name, value in fields.items() if value not in (None, {}, []) or name == "tags"}
    return {**given, "input_roles": [picture.role for picture in record.images]}


def _json_values(more: Mapping[str, Any]) -> dict[str, Any]:
    """Values of other columns as JSON; those that are null are left out."""
    return {name: json.loads(json.dumps(value, default=_plain)) for name, value in more.items() if value is not None}


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _hf_image(picture: Picture) -> dict[str, Any]:
    return {"bytes": picture.data, "path": _file_name(picture)}


def _file_name(picture: Picture) -> str:
    return f"{picture.digest}.{_ending(picture)}"


def _ending(picture: Picture) -> str:
    try:
        return read_header(picture.data).extension
    except ImageError:
        # `tagmoe data import` refuses such pictures, but a store may have them from elsewhere: export the bytes.
        return "bin"


def _number_shards(folder: Path) -> None:
    """Rename shards as the hub expects: each name has the number of shards."""
    for split in ("train", "validation"):
        shards = sorted(folder.glob(f"{split}-*.parquet"))
        for number, path in enumerate(shards):
            path.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column of this type in the JSON form of `datasets.Features`."""
    if kind == _HF_IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
