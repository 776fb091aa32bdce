"""Read the encoded columns of a store as arrays. This decodes no picture and needs no model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagmoe.data.encode import BLANK_NOTE, INDICATOR, check_fingerprint
from tagmoe.data.order.sampler import wording
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError


@dataclass(frozen=True)
class EncodedRows:
    """B rows of one bucket, with their ids and tags (None where nobody has annotated the row).

    target (B, z, h, w) and one such array a reference: normalised latents, float16. text (B, S, D), float16, zero
    where padded, with mask (B, S) of real tokens. edited (B, rows, columns) of the token grid: True where the edit may
    change the picture, everywhere in rows without a mask; None when no row has one.
    """

    ids: list[str]
    tags: list[list[int] | None]
    bucket: str
    target: np.ndarray
    references: tuple[np.ndarray, ...]
    text: np.ndarray
    mask: np.ndarray
    edited: np.ndarray | None


class EncodedStore:
    """Reads the columns that `encode_store` fills.

    fingerprint: of the encoder that must have made them, if given. Raises DataError for a store without the columns, or
    with those of another encoder.
    """

    def __init__(self, store: Store, fingerprint: Mapping[str, Any] | None = None) -> None:
        if INDICATOR not in store.columns:
            raise DataError(f"The store {store.uri!r} is not encoded; run 'tagmoe data encode' on it.")
        if fingerprint is not None:
            check_fingerprint(store, fingerprint)
        self.store = store
        self._blank = store.note(BLANK_NOTE)

    @property
    def blank(self) -> np.ndarray:
        """The embedding (S, D) of a dropped instruction, float16."""
        if self._blank is None:
            raise DataError(f"Nothing in the store {self.store.uri!r} is encoded; run 'tagmoe data encode' on it.")
        return np.frombuffer(base64.b64decode(self._blank["data"]), np.float16).reshape(self._blank["shape"])

    def _blank_of(self, row: Mapping[str, Any]) -> np.ndarray:
        return self.blank if row["encoded_blank"] is None else _array(row["encoded_blank"])

    def read(
        self,
        rows: Sequence[int],
        *,
        choice: Sequence[float] | None = None,
        share: float = 0.0,
        blank: Sequence[bool] | None = None,
    ) -> EncodedRows:
        """The rows of these numbers, in this order; they must be of one bucket.

        choice, share: for each row a random number in [0, 1), and the probability of the rewritten instruction; they
        choose the wording as in `wording`. By default it is the first. blank: for each row, whether its instruction is
        dropped. Raises DataError for rows of several buckets or not encoded rows.
        """
        names = ["bucket", "target", "references", "instruction", "instructions", "rewritten", "blank", "mask"]
        found = self.store.take(rows, ["id", "tags", *(f"encoded_{name}" for name in names)]).to_pylist()
        buckets = {row[INDICATOR] for row in found}
        if len(buckets) != 1 or not all(buckets):
            raise DataError(
                f"A batch is of one bucket, and rows of {sorted(map(str, buckets))[:4]} were asked of the store "
                f"{self.store.uri!r}; rows with none cannot be used."
            )
        given = zip(found, choice or [0.0] * len(found), blank or [False] * len(found), strict=True)
        text, mask = _padded(
            [self._blank_of(row) if drop else _text(row, number, share) for row, number, drop in given]
        )
        return EncodedRows(
            ids=[row["id"] for row in found],
            tags=[row["tags"] for row in found],
            bucket=buckets.pop(),
            target=np.stack([_array(row["encoded_target"]) for row in found]),
            references=tuple(
                np.stack([_array(item) for item in column])
                for column in zip(*(row["encoded_references"] for row in found), strict=True)
            ),
            text=text,
            mask=mask,
            edited=_edited([row["encoded_mask"] for row in found]),
        )


def _array(value: Mapping[str, Any], dtype: type = np.float16) -> np.ndarray:
    return np.frombuffer(value["data"], dtype).reshape(value["shape"])


def _text(row: Mapping[str, Any], choice: float, share: float) -> np.ndarray:
    own = row["encoded_instruction"]
    first, *further = (own, *row["encoded_instructions"]) if own is not None else row["encoded_instructions"]
    chosen: Mapping[str, Any] = wording(choice, first, tuple(further), row["encoded_rewritten"], share=share)
    return _array(chosen)


def _padded(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(text) for text in texts)
    values = np.zeros((len(texts), longest, texts[0].shape[1]), dtype=np.float16)
    mask = np.zeros((len(texts), longest), dtype=bool)
    for number, text in enumerate(texts):
        values[number, : len(text)] = text
        mask[number, : len(text)] = True
    return values, mask


def _edited(masks: Sequence[Mapping[str, Any] | None]) -> np.ndarray | None:
    shape = next((mask["shape"] for mask in masks if mask is not None), None)
    if shape is None:
        return None
    return np.stack([np.ones(shape, bool) if m is None else _array(m, np.uint8).astype(bool) for m in masks])
