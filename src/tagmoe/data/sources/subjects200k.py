"""Subjects200K (arXiv 2411.15098): one subject in two scenes, both views side by side in one picture.

`Yuanshi/Subjects200K` (206,841 rows, Apache-2.0) and `Yuanshi/Subjects200K_collection3` (49,159 rows; its card states
no licence, and its files are known by their column raw_json). As the authors train (OminiControl): rows whose three
quality scores all reach a threshold; boxes cut by image_size and padding; each view once the condition and once the
target, with the description of the target as text. The defaults are those of the first set; the sizes of collection3
could not be verified. A row without scores is skipped, as is one whose description is marked invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tagmoe.data.sources.option_values import whole_number
from tagmoe.data.sources.parquet_rows import Column, ParquetRow
from tagmoe.data.sources.pixels import decoded, encoded_like
from tagmoe.data.sources.published_parquet import PublishedParquet, caption, picture_in, scores
from tagmoe.data.sources.skipped import instruction
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Record, record_id

SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
LEFT, RIGHT = 0, 1
VIEWS = ("left", "right")


class Subjects200K(PublishedParquet):
    """Two records a row: the left view from the right one, and the right view from the left one."""

    name = "subjects200k"
    licence = Licence("Apache-2.0")
    records_a_row = 2
    columns = (
        Column("image", "picture"),
        Column("quality_assessment", "struct"),
        Column("description", "struct"),
        Column("raw_json", "text", required=False),
    )

    def __init__(self, path: Path, *, image_size: Any = 512, padding: Any = 8, min_quality: Any = 5) -> None:
        """image_size, padding: of a view, in pixels. min_quality: lowest score of a row that is kept; 0 keeps all."""
        self._size = whole_number("image_size", image_size, 1)
        self._padding = whole_number("padding", padding, 0)
        self._least = whole_number("min_quality", min_quality, 0)
        options = {"image_size": self._size, "padding": self._padding, "min_quality": self._least}
        super().__init__(path, options=options)
        if "raw_json" in self.files.names():
            self.licence = Licence("none")

    def record(self, found: ParquetRow, place: int) -> Record:
        target, condition = place, 1 - place
        quality = self._scores(found.values["quality_assessment"])
        described = found.values["description"] or {}
        if described.get("description_valid") is False:
            raise UnusableRow("description marked invalid")
        texts = [described.get(f"description_{view}") for view in (LEFT, RIGHT)]
        text = instruction(texts[target])
        *views, root = _views(picture_in(found.values["image"]), self._size, self._padding)
        return Record(
            id=record_id(self.name, root, VIEWS[target]),
            dataset=self.name,
            images=(replace(views[condition], role="reference"),),
            target=views[target],
            instruction=text,
            caption_source=caption(texts[condition]),
            caption_target=text,
            quality=quality,
            licence=self.licence.name,
            origin=found.origin,
            root=root,
        )

    def _scores(self, given: Mapping[str, Any] | None) -> dict[str, float]:
        found = scores(given or {}, SCORES)
        if self._least and len(found) < len(SCORES):
            raise UnusableRow("no quality score")
        if any(score < self._least for score in found.values()):
            raise UnusableRow("low quality score")
        return found


@lru_cache(maxsize=1)
def _views(both: Picture, size: int, padding: int) -> tuple[Picture, Picture, str]:
    """Left and right view, and the digest of the whole picture; kept for the second record of the row."""
    if both.width < 2 * size + 2 * padding or both.height < size + padding:
        raise UnusableRow("picture too small to crop")
    pixels = decoded(both)
    starts = (padding, size + 2 * padding)
    left, right = (pixels.crop((start, padding, start + size, padding + size)) for start in starts)
    return encoded_like(left, both, "source"), encoded_like(right, both, "source"), both.digest
