"""Pictures of benchmarks, which must not be trained on, by the SHA-256 of their bytes.

They are given as the folder of a benchmark, or as a text file of hashes. A picture that was scaled or encoded again has
other bytes and is not recognised.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagmoe.errors import UsageError
from tagmoe.sentences import reason_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PARQUET_ROWS = 16


def benchmark_pictures(path: Path) -> frozenset[str]:
    """SHA-256 (hexadecimal) of the pictures in a folder and its Parquet files, or listed in a text file.

    Raises UsageError for what cannot be read, a folder without pictures, and a line of a list that is no digest.
    """
    try:
        if not path.is_dir():
            return frozenset(_listed(path))
        found = frozenset(_in_folder(path))
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise UsageError(f"The benchmark pictures of {str(path)!r} cannot be read ({reason}).") from None
    if not found:
        raise UsageError(f"The folder {str(path)!r} has no pictures and no Parquet files; name that of a benchmark.")
    return found


def _listed(path: Path) -> Iterator[str]:
    """One digest a line, in the format of `sha256sum`; # begins a comment."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                words = line.partition("#")[0].split(maxsplit=1)
                if words and not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
                    raise UsageError(
                        f"Line {number} of {str(path)!r} has no SHA-256 ({words[0][:20]!r}); write 64 hexadecimal "
                        "digits a line."
                    )
                yield from (word.lower() for word in words[:1])
    except UnicodeDecodeError:
        raise UsageError(f"The list of hashes {str(path)!r} is no text in UTF-8.") from None


def _in_folder(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").hexdigest()
        elif path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(PARQUET_ROWS):
                    for row in batch.to_pylist():
                        yield from _in_value(row)


def _in_value(value: Any) -> Iterator[str]:
    """The digests of all bytes in a value, however deeply nested: `datasets` stores pictures as {bytes, path}."""
    if isinstance(value, bytes):
        yield hashlib.sha256(value).hexdigest()
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _in_value(item)
