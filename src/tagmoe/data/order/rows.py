"""The rows of a store that can be trained on, by data set and by bucket, for the sampler."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tagmoe.data.order.sampler import SourceRows
from tagmoe.data.store.record import NO_INPUTS
from tagmoe.data.store.store import SCAN_ROWS, Store
from tagmoe.errors import DataError, UsageError

Size = tuple[int, int]
TEXT_ROWS = 16_384
"""Rows of a batch of a scan without pictures."""


def bucket_name(target: Size, references: Sequence[Size] = ()) -> str:
    """Name of a bucket: width x height of the target, then of each reference in order ("64x64 64x64 32x48")."""
    return " ".join(f"{width}x{height}" for width, height in (target, *references))


def bucket_sizes(bucket: str) -> list[Size]:
    """The (width, height) of the target, then those of the references."""
    sides = (text.split("x") for text in bucket.split())
    return [(int(width), int(height)) for width, height in sides]


def rows_by_bucket(
    store: Store,
    *,
    weights: Mapping[str, float] | None = None,
    split: str = "train",
    bucket_column: str | None = None,
) -> dict[str, SourceRows]:
    """The rows of one split, as in `rows_by_split`."""
    return rows_by_split(store, (split,), weights=weights, bucket_column=bucket_column)[split]


def rows_by_split(
    store: Store,
    splits: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    bucket_column: str | None = None,
) -> dict[str, dict[str, SourceRows]]:
    """By split and data set, its weight and its rows.

    weights: by data set; data sets that are not named are left out. By default the weight is the number of rows. Rows
    in quarantine are left out; rows that were not validated are kept. Masks do not count as references.

    bucket_column: has the name of each row's bucket; rows with an empty name are left out. Without it the bucket
    follows from the sizes of the pictures, which makes Lance read the pictures, too (it reads a list of structs whole).
    Raises UsageError for a data set that the store does not have, and DataError for rows with null in the column.
    """
    found: dict[str, dict[str, dict[str, array[int]]]] = {}
    of_pictures = ["target.width", "target.height", "images"]
    columns = ["dataset", "split", *(of_pictures if bucket_column is None else [bucket_column])]
    if "quarantine" in store.columns:
        columns.append("quarantine")
    start = missing = 0
    for batch in store.scan(columns, rows=SCAN_ROWS if bucket_column is None else TEXT_ROWS):
        buckets = _buckets(batch) if bucket_column is None else batch[bucket_column].to_pylist()
        kept = zip(batch["dataset"].to_pylist(), batch["split"].to_pylist(), _quarantined(batch), strict=True)
        for row, ((dataset, side, is_bad), bucket) in enumerate(zip(kept, buckets, strict=True), start):
            rows = found.setdefault(dataset, {name: {} for name in splits})
            if side in splits and not is_bad and (weights is None or dataset in weights):
                if bucket:
                    rows[side].setdefault(bucket, array("q")).append(row)
                missing += bucket is None
        start += len(batch)
    if missing:
        raise DataError(
            f"{missing} rows of the store {store.uri!r} have no {bucket_column!r} yet; run 'tagmoe data encode' on it "
            "again, which does what is left."
        )
    unknown = [name for name in weights or () if name not in found]
    if unknown:
        raise UsageError(
            f"The store {store.uri!r} has no data set {unknown[0]!r}; it has {', '.join(sorted(found)) or 'none'}."
        )
    return {
        split: {
            name: SourceRows(
                float(sum(map(len, rows[split].values()))) if weights is None else weights[name],
                {bucket: np.array(numbers, dtype=np.int64) for bucket, numbers in sorted(rows[split].items())},
            )
            for name, rows in sorted(found.items())
            if weights is None or name in weights
        }
        for split in splits
    }


def quarantined_rows(store: Store) -> int:
    """Number of rows that quarantine keeps out."""
    if "quarantine" not in store.columns:
        return 0
    return sum(sum(_quarantined(batch)) for batch in store.scan(["quarantine"], rows=TEXT_ROWS))


def untagged_rows(store: Store) -> np.ndarray:
    """Numbers of the rows without tags."""
    found, start = [np.zeros(0, dtype=np.int64)], 0
    for batch in store.scan(["tags"], rows=TEXT_ROWS):
        found.append(np.flatnonzero(np.asarray(batch["tags"].is_null())) + start)
        start += len(batch)
    return np.concatenate(found)


def _quarantined(batch: pa.RecordBatch) -> list[bool]:
    if "quarantine" not in batch.schema.names:
        return [False] * len(batch)
    return [bool(reasons) for reasons in batch["quarantine"].to_pylist()]


def _buckets(batch: pa.RecordBatch) -> Iterator[str]:
    targets = zip(batch["target.width"].to_pylist(), batch["target.height"].to_pylist(), strict=True)
    pictures = batch["images"].flatten()  # only sizes become Python values, the bytes do not
    names = ("role", "width", "height")
    images = list(zip(*(pictures.field(name).to_pylist() for name in names), strict=True))
    end = 0
    for target, count in zip(targets, batch["images"].value_lengths().to_pylist(), strict=True):
        start, end = end, end + (count or 0)
        yield bucket_name(
            target, [(width, height) for role, width, height in images[start:end] if role not in NO_INPUTS]
        )
