"""Rows that stay in memory until a command ends, packed: as objects, ten thousand of them take fifty megabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Generic, TypeVar

from tagmoe.config.part import Part

R = TypeVar("R", bound=Part)
_WINDOW = -12
"""Raw deflate that looks back 4 kB, which is further than a row is long."""


class PackedRows(MutableMapping[str, R], Generic[R]):
    """Rows by a key, each as what its JSON says that the first one's does not: a tenth of its objects.

    A row is made anew each time it is asked for, and equals the one that was put in. kind: the class of all rows.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._like = b""
        self._packed: dict[str, bytes] = {}

    def __getitem__(self, key: str) -> R:
        unpack = zlib.decompressobj(_WINDOW, zdict=self._like)
        return self._kind.model_validate_json(unpack.decompress(self._packed[key]) + unpack.flush())

    def __setitem__(self, key: str, row: R) -> None:
        data = row.model_dump_json().encode()
        if not self._like:
            self._like = data
        pack = zlib.compressobj(1, zlib.DEFLATED, _WINDOW, 1, zdict=self._like)
        self._packed[key] = pack.compress(data) + pack.flush()

    def __delitem__(self, key: str) -> None:
        del self._packed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, key: object) -> bool:
        return key in self._packed


class RowsInOrder(Sequence[R], Generic[R]):
    """Some of the rows, in an order."""

    def __init__(self, rows: MutableMapping[str, R], keys: Sequence[str]) -> None:
        self._rows, self._keys = rows, keys

    def __getitem__(self, place: int) -> R:  # type: ignore[override]
        return self._rows[self._keys[place]]

    def __len__(self) -> int:
        return len(self._keys)
