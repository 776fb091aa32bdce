"""MagicBrush (arXiv 2306.10012): edits that people made by hand with DALL-E 2, up to several turns a picture.

`osunlp/MagicBrush`, splits train (8,807 rows) and dev (528). dev is left out unless asked for; its test set is a
benchmark and is never taken. The turns of a picture have the ids (img_id, turn_index) and one root, so that they never
stand on both sides of a split. mask_img could not be verified: with an alpha channel it becomes a mask that is white
where it was transparent, as DALL-E 2 wants it; without one it is kept as it is. Readers in public (ICEdit) cut the
bottom H/32 rows of the pictures, which are noisy: option crop_bottom.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tagmoe.data.sources.option_values import yes_or_no
from tagmoe.data.sources.parquet_rows import Column, ParquetRow
from tagmoe.data.sources.pixels import decoded, encoded_like, holes
from tagmoe.data.sources.published_parquet import PublishedParquet, picture_in
from tagmoe.data.sources.skipped import HELD_OUT, NO_ID, instruction
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Record, record_id

BOTTOM = 32
"""The crop removes 1/32 of the rows of pixels, at the bottom."""


class MagicBrush(PublishedParquet):
    """Source, mask and target of one turn."""

    name = "magicbrush"
    licence = Licence("CC-BY-4.0")
    columns = (
        Column("img_id", "text"),
        Column("turn_index", "number"),
        Column("source_img", "picture"),
        Column("target_img", "picture"),
        Column("instruction", "text"),
        Column("mask_img", "picture", required=False),
    )

    def __init__(self, path: Path, *, dev: Any = False, crop_bottom: Any = False) -> None:
        """dev: take the dev split too. crop_bottom: cut the bottom H/32 rows of all pictures."""
        with_dev, self._crops = yes_or_no("dev", dev), yes_or_no("crop_bottom", crop_bottom)
        held_out = {} if with_dev else dict.fromkeys(("dev", "validation", "val"), HELD_OUT)
        super().__init__(
            path,
            options={"dev": with_dev, "crop_bottom": self._crops},
            left_out={"test": "test set of a benchmark", **held_out},
        )

    def record(self, found: ParquetRow, place: int) -> Record:
        values = found.values
        name, turn = values["img_id"], values["turn_index"]
        if not name or turn is None:
            raise UnusableRow(NO_ID)
        text = instruction(values["instruction"])
        mask = values["mask_img"]
        images = (picture_in(values["source_img"]), *(() if mask is None else (_mask(picture_in(mask, "mask")),)))
        return Record(
            id=record_id(self.name, f"{name}/{turn}"),
            dataset=self.name,
            images=tuple(self._cut(image) for image in images),
            target=self._cut(picture_in(values["target_img"])),
            instruction=text,
            licence=self.licence.name,
            origin=found.origin,
            root=hashlib.sha256(f"{self.name}/{name}".encode()).hexdigest(),
        )

    def _cut(self, image: Picture) -> Picture:
        rows = image.height // BOTTOM
        if not self._crops or not rows:
            return image
        pixels = decoded(image)
        return encoded_like(pixels.crop((0, 0, image.width, image.height - rows)), image, image.role)


def _mask(image: Picture) -> Picture:
    hole = holes(image)
    return image if hole is None else encoded_like(hole, image, "mask")
