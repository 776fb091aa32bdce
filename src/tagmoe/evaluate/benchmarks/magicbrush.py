"""MagicBrush, split dev (arXiv 2306.10012; data `osunlp/MagicBrush`, CC-BY-4.0): 528 turns with targets and masks.

Columns as `tagmoe.data.sources.magicbrush` reads them: img_id, turn_index, source_img, mask_img, instruction,
target_img. Its test split is a protected zip that must not be passed on: rows of it are refused, and training rows are
not chosen. Each turn starts from the published source: the setting in which an editor goes on with its own output needs
answers of one case in another and is not here. In mask_img, which could not be verified, the hole is where it is
transparent; a picture without transparency is no mask and is left out of the case.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.option_values import one_of
from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_tables import Table, TableRow, identifier, text
from tagmoe.evaluate.benchmarks.table_benchmark import TableBenchmark

DEV = ("dev", "validation", "val", "")


class MagicBrushDev(TableBenchmark):
    """The dev split. turns: all, first, or last: one turn of each picture."""

    name = "magicbrush"
    about = "MagicBrush, split dev: 528 turns that people edited by hand, with targets and masks"
    licence = "CC-BY-4.0"
    needed = ("img_id", "turn_index", "source_img", "instruction", "target_img")
    optional = ("mask_img",)
    options: ClassVar[Mapping[str, str]] = {"turns": "all (default), first, last"}

    def __init__(self, path: Path, *, turns: str = "all") -> None:
        self._turns = one_of("turns", turns, ("all", "first", "last"))
        super().__init__(path)
        self._last = _last_turns(path) if self._turns == "last" else {}

    def choices(self) -> Mapping[str, Any]:
        return {"turns": self._turns, "sources": "published"}

    def chosen(self, row: TableRow) -> str:
        if row.split == "test":
            raise DataError(
                f"{row.file.name!r} is of MagicBrush's test split, which must not be passed on; give the dev split."
            )
        if row.split not in DEV:
            return f"split {row.split}"
        first = self._turns == "first" and _turn(row) != 1
        last = self._turns == "last" and _turn(row) != self._last[identifier(row.values["img_id"])]
        return "another turn" if first or last else ""

    def identifier(self, row: TableRow) -> str:
        """ID_1, and ID_inde_TURN from the second turn on, as its evaluation names outputs from published sources."""
        name, turn = identifier(row.values["img_id"]), _turn(row)
        return (f"{name}_1" if turn == 1 else f"{name}_inde_{turn}") if name else ""

    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        values = row.values
        return Case(
            bench=self.name,
            id=name,
            task="edit",
            instruction=text(values, "instruction"),
            source=self.table.picture(values["source_img"], "source_img", pictures),
            mask=self._mask(values.get("mask_img"), pictures),
            target=self.table.picture(values["target_img"], "target_img", pictures),
            split="dev",
            # Turns of one picture err together.
            meta={"turn": _turn(row), "group": identifier(values["img_id"])},
        )

    def _mask(self, value: Any, pictures: Pictures) -> str | None:
        """The hole of a mask picture, white."""
        from tagmoe.data.sources.pixels import holes
        from tagmoe.data.sources.published_parquet import picture_in
        from tagmoe.data.store.fields import UnusableRow

        if value is None:
            return None
        try:
            hole = holes(picture_in(value, "mask"))
        except UnusableRow as error:
            raise UnusableCase(f"mask_img: {error}") from None
        if hole is None:
            return None
        buffer = io.BytesIO()
        hole.save(buffer, format="PNG")
        return pictures.add(buffer.getvalue(), "mask_img")


def _last_turns(path: Path) -> dict[str, int]:
    """The last turn of each picture. No picture is read."""
    found: dict[str, int] = {}
    for row in Table(path, ("img_id", "turn_index")).rows():
        if row.split in DEV:
            # A row without a turn is listed when its case is made.
            with suppress(UnusableCase):
                name, turn = identifier(row.values["img_id"]), _turn(row)
                found[name] = max(turn, found.get(name, turn))
    return found


def _turn(row: TableRow) -> int:
    turn = row.values["turn_index"]
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 1:
        raise UnusableCase("its turn_index is no number from 1 on")
    return turn
