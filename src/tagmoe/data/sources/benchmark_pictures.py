"""Pictures of benchmarks, which must not be trained on: the same bytes, and pictures that look the same.

They are given as the folder of a benchmark, or as a text file of SHA-256 hashes. Of a folder also pictures that were
encoded again, resized or slightly cropped are recognised, by the perceptual hash of ImageHash: a benchmark's picture is
hashed whole and in crops by up to 12 %, and a picture is like it when one of the hashes differs in few of its bits.
Measured figures: docs/benchmarks.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tagmoe.data.store.record import Picture
from tagmoe.errors import ImageError, UsageError
from tagmoe.extras import require
from tagmoe.pictures import load_image
from tagmoe.sentences import reason_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
PARQUET_ROWS = 16
DISTANCE = 0.22
"""Share of the bits of two hashes that may differ, for pictures that are like each other."""
HASH_SIDE = 12
CROPS = (0.04, 0.08, 0.12)
"""Shares of both sides that are cut off, at each of nine places, for the hashes of a benchmark's picture."""
READ_SIDE = 256
FLAT = 4.0
"""Standard deviation of grey levels below which a picture has nothing to hash: all such pictures look the same."""


@dataclass(frozen=True)
class BenchmarkPictures:
    """Pictures that must not be trained on.

    digests: SHA-256 (hexadecimal) of their bytes. hashes: (N, bytes) uint8, packed bits of perceptual hashes. distance:
    share of the bits that may differ; 0 compares bytes alone.
    """

    digests: frozenset[str] = frozenset()
    hashes: np.ndarray = field(default_factory=lambda: np.zeros((0, HASH_SIDE**2 // 8), np.uint8), repr=False)
    distance: float = DISTANCE

    @classmethod
    def union(cls, parts: Collection[BenchmarkPictures], distance: float = DISTANCE) -> BenchmarkPictures:
        """All of them. Raises UsageError for a distance that is no share from 0 to 0.5."""
        if not 0 <= distance <= 0.5:
            raise UsageError(f"The distance of benchmark pictures is {distance:g}; give a share of bits from 0 to 0.5.")
        empty = cls()
        digests = empty.digests.union(*(part.digests for part in parts))
        return cls(digests, np.concatenate([empty.hashes, *(part.hashes for part in parts)]), distance)

    def conditions(self) -> Any:
        """JSON values that identify them."""
        looks = hashlib.sha256(self.hashes.tobytes()).hexdigest() if len(self.hashes) and self.distance else ""
        return [sorted(self.digests), *([looks, self.distance] if looks else [])]

    def has(self, picture: Picture) -> bool:
        """Whether a picture has the same bytes as one of them."""
        return picture.digest in self.digests

    def has_like(self, picture: Picture) -> bool:
        """Whether a picture looks like one of them. A picture that cannot be decoded does not."""
        if not self.distance or not len(self.hashes):
            return False
        found = look_of(picture)
        if found is None:
            return False
        bits = np.bitwise_count(self.hashes ^ found).sum(axis=1, dtype=np.int32)
        return bool(bits.min() <= self.distance * HASH_SIDE**2)


def look_of(picture: Picture) -> np.ndarray | None:
    """(bytes,) uint8: the packed bits of a picture's perceptual hash; None where it is flat or cannot be decoded."""
    return _hash(_small(picture.data))


def benchmark_pictures(path: Path, *, looks: bool = True) -> BenchmarkPictures:
    """The pictures in a folder and its Parquet files, or the digests listed in a text file.

    looks: also hash what the pictures look like. Raises UsageError for what cannot be read, a folder without pictures,
    and a line of a list that is no digest; MissingError without ImageHash.
    """
    try:
        if not path.is_dir():
            return BenchmarkPictures(frozenset(_listed(path)))
        if looks:
            require("data", "imagehash", purpose="Recognising pictures of a benchmark that were encoded again")
        digests: set[str] = set()
        hashes: list[np.ndarray] = []
        for data in _in_folder(path):
            digests.add(hashlib.sha256(data).hexdigest())
            hashes += _hashes(data) if looks else ()
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise UsageError(f"The benchmark pictures of {str(path)!r} cannot be read ({reason}).") from None
    if not digests:
        raise UsageError(f"The folder {str(path)!r} has no pictures and no Parquet files; name that of a benchmark.")
    empty = BenchmarkPictures()
    return BenchmarkPictures(frozenset(digests), np.concatenate([empty.hashes, *(one[None] for one in hashes)]))


def _small(data: bytes) -> Image.Image | None:
    try:
        return load_image(data, draft=(READ_SIDE, READ_SIDE))
    except ImageError:
        return None


def _hashes(data: bytes) -> Iterable[np.ndarray]:
    """The hashes of a picture, whole and cropped."""
    image = _small(data)
    whole = _hash(image)
    if image is None or whole is None:
        return
    yield whole
    for share in CROPS:
        width, height = (round(side * (1 - share)) for side in image.size)
        for right in (0.0, 0.5, 1.0):
            for down in (0.0, 0.5, 1.0):
                left, top = round((image.width - width) * right), round((image.height - height) * down)
                found = _hash(image.crop((left, top, left + width, top + height)))
                if found is not None:
                    yield found


def _hash(image: Image.Image | None) -> np.ndarray | None:
    """The packed bits of the perceptual hash; None of a picture that is flat or cannot be decoded."""
    import imagehash

    if image is None or np.asarray(image.convert("L"), np.float32).std() < FLAT:
        return None
    return np.packbits(imagehash.phash(image, hash_size=HASH_SIDE).hash.flatten())


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


def _in_folder(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            yield path.read_bytes()
        elif path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(PARQUET_ROWS):
                    for row in batch.to_pylist():
                        yield from _in_value(row)


def _in_value(value: Any) -> Iterator[bytes]:
    """All bytes in a value, however deeply nested: `datasets` stores pictures as {bytes, path}."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _in_value(item)
