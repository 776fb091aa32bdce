"""OmniEdit (arXiv 2411.07199): edits by seven specialist models, scored by a language model.

`TIGER-Lab/OmniEdit-Filtered-1.2M`, splits train (1,202,797 rows) and dev (700), which is left out unless asked for.
edited_prompt_list holds several paraphrases: the first is the instruction and the others further wordings, so that the
choice among them is the sampler's. task is kept as it stands; seen are removal, style, attribute_modification, env,
swap and addition, what a change of background is called could not be verified, and an unknown string is no error. The
reasons for the scores (sc_reasoning, pq_reasoning) are not kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagmoe.data.sources.option_values import yes_or_no
from tagmoe.data.sources.parquet_rows import Column, ParquetRow
from tagmoe.data.sources.published_parquet import PublishedParquet, picture_in, scores
from tagmoe.data.sources.skipped import HELD_OUT, NO_ID, NO_INSTRUCTION
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Record, record_id

SCORES = ("sc_score_1", "sc_score_2", "pq_score", "o_score")


class OmniEdit(PublishedParquet):
    """Source and target with all wordings; consistency (sc), perception (pq) and overall (o) scores."""

    name = "omniedit"
    licence = Licence("MIT")
    columns = (
        Column("omni_edit_id", "text"),
        Column("src_img", "picture"),
        Column("edited_img", "picture"),
        Column("edited_prompt_list", "texts"),
        Column("task", "text", required=False),
        *(Column(name, "number", required=False) for name in SCORES),
    )

    def __init__(self, path: Path, *, dev: Any = False) -> None:
        """dev: take the dev split too, which the authors hold out."""
        with_dev = yes_or_no("dev", dev)
        super().__init__(path, options={"dev": with_dev}, left_out={} if with_dev else {"dev": HELD_OUT})

    def record(self, found: ParquetRow, place: int) -> Record:
        values = found.values
        if not values["omni_edit_id"]:
            raise UnusableRow(NO_ID)
        given = [text.strip() for text in values["edited_prompt_list"] or () if text and text.strip()]
        if not given:
            raise UnusableRow(NO_INSTRUCTION)
        first, *others = dict.fromkeys(given)
        return Record(
            id=record_id(self.name, values["omni_edit_id"]),
            dataset=self.name,
            images=(picture_in(values["src_img"]),),
            target=picture_in(values["edited_img"]),
            instruction=first,
            instructions=tuple(others),
            native_task=values["task"] or "",
            quality=scores(values, SCORES),
            licence=self.licence.name,
            origin=found.origin,
        )
