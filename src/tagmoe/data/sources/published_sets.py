"""Published sets in Parquet with other columns than those of an export, and in tar files.

Each class says where its columns were read, and when; none of the sets was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.field_map import FIRST
from tagmoe.data.sources.parquet import ParquetSource
from tagmoe.data.sources.parquet_rows import ParquetRow
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.sources.webdataset import WebdatasetSource
from tagmoe.data.store.fields import UnusableRow

X2EDIT_TASKS = ("task", "label_fine", "label")
"""The names under which the folders of X2Edit give the task, the finest first."""


class ImgEdit(ParquetSource):
    """ImgEdit (arXiv 2505.20275): 1.2 million edits of ten kinds, and conversations of three kinds.

    Parquet/*.parquet of input_images, output_images (lists of paths) and prompt, or of data, a list of such turns. The
    pictures are unpacked from the tars of Singleturn and Multiturn, below `root` or the folder that is given. Columns:
    README of PKU-YuanGroup/ImgEdit (1287657, read 2026-11-30). No licence of the set could be read.
    """

    kind = "imgedit"
    terms = Licence("none")
    columns: ClassVar[Mapping[str, str]] = {
        "instruction": "prompt",
        "source": "input_images",
        "target": "output_images",
        "turn": "turn",
        "native_task": "task",
    }

    def __init__(self, path: Path, *, root: str | Path | None = None) -> None:
        """root: folder or tar of the pictures, if they do not lie below the folder that is given."""
        super().__init__(path, self.kind, self.terms.name, self.columns, root=root, optional=True, more=("data",))
        self.licence = self.terms

    def _row(self, found: ParquetRow) -> Row:
        # The kind of edit stands in the name of the file only: add_part0.parquet.
        self._task = re.sub(r"_part.*|\.parquet$", "", Path(found.path).name)
        return super()._row(found)

    def unfolded(self, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        turns = values.get("data")
        if turns is None:
            return [{**values, "task": self._task}]
        if not turns or not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise UnusableRow("conversation without its turns")
        sources = turns[0].get("input_images")
        first = sources[0] if isinstance(sources, list) and sources else None
        return [{**turn, "turn": number, "task": self._task, FIRST: first} for number, turn in enumerate(turns, 1)]


class _OfColumns:
    """A published set that differs from its format by its columns and licence alone."""

    kind: str
    terms: Licence
    columns: ClassVar[Mapping[str, str]]

    def __init__(self, path: Path) -> None:
        super().__init__(path, self.kind, self.terms.name, self.columns)  # type: ignore[call-arg]
        self.licence = self.terms


class ScaleEdit(_OfColumns, ParquetSource):
    """ScaleEdit-12M (arXiv 2603.20644): 12.4 million edits of 23 tasks by open models, scored from 1 to 3.

    TASK/*.parquet of id, edit_task, edit_instruction, source_image, edited_image (bytes), their sizes, and scores of
    instruction following, editing consistency and generation quality. Columns and licence: card of
    InternVL-U/ScaleEdit-12M (read 2026-11-30). Ids are unique in a task only.
    """

    kind = "scaleedit"
    terms = Licence("MIT")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id",
        "instruction": "edit_instruction",
        "source": "source_image",
        "target": "edited_image",
        "native_task": "edit_task",
        "quality.instruction_following": "instruction_following_score",
        "quality.editing_consistency": "editing_consistency_score",
        "quality.generation_quality": "generation_quality_score",
    }


class X2Edit(_OfColumns, WebdatasetSource):
    """X2Edit (arXiv 2508.07607): 3.7 million edits of 14 tasks by several generators, in tars by generator.

    A sample has KEY.json, KEY.1.0.jpg (before) and KEY.2.jpg (after); some folders say .1.jpg. The JSON gives the
    instruction as instruction, instruction_en or caption_en, in Chinese as instruction_zh or caption_zh, and the task
    as task, label_fine or label. Columns: the reader `custom_dataset_512` of OPPO-Mente-Lab/X2Edit (223e40c, read
    2026-11-30). Licence: card of OPPOer/X2Edit-Dataset.
    """

    kind = "x2edit"
    terms = Licence("Apache-2.0")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id",
        "instruction.en": "english",
        "instruction.zh": "chinese",
        "source": "before",
        "target": "after",
        "native_task": "of_task",
    }

    def adapted(self, values: dict[str, Any]) -> Mapping[str, Any]:
        def first(*names: str) -> Any:
            return next((values[name] for name in names if values.get(name)), None)

        task = first(*X2EDIT_TASKS)
        return values | {
            "english": first("instruction", "instruction_en", "caption_en_ori", "caption_en"),
            "chinese": first("instruction_zh", "caption_zh", "style_zh"),
            "before": first("1.0.jpg", "1.jpg", "1.0", "1", "jpg"),
            "after": first("2.jpg", "2", "png"),
            "of_task": task if isinstance(task, str) else None,
        }
