"""UltraEdit (arXiv 2407.05282): free-form and region-based edits of real pictures by SDXL-Turbo.

One adapter for `BleachNick/UltraEdit` (about 4M rows; edit_object and mask_image null in its FreeForm splits),
`BleachNick/UltraEdit_500k` (without these columns) and `BleachNick/UltraEdit_Region_Based_100k` (with masks). The full
list of columns of the last could not be verified, so that every column but the pictures and the instruction may be
missing. `idx` is not known to be unique among the splits and is not used: ids come from the content. There is no task
column; native_task is the kind of split that a row belongs to, told by its mask. edit_object is not kept.
"""

from __future__ import annotations

from tagmoe.data.sources.parquet_rows import Column, ParquetRow
from tagmoe.data.sources.published_parquet import PublishedParquet, caption, picture_in, scores
from tagmoe.data.sources.skipped import instruction
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import content_key
from tagmoe.data.store.record import Record, record_id

FREE_FORM, REGION = "FreeForm", "RegionBase"
SCORES = ("clip_sim_source", "clip_sim_target", "clip_sim_dir", "clip_sim_image", "dinov2_sim", "ssim")


class UltraEdit(PublishedParquet):
    """Source, mask where there is one, and target; CLIP, DINOv2 and SSIM scores; both captions."""

    name = "ultraedit"
    licence = Licence("CC-BY-4.0")
    columns = (
        Column("source_image", "picture"),
        Column("edited_image", "picture"),
        Column("edit_prompt", "text"),
        Column("mask_image", "picture", required=False),
        Column("source_caption", "text", required=False),
        Column("target_caption", "text", required=False),
        *(Column(name, "number", required=False) for name in SCORES),
    )

    def record(self, found: ParquetRow, place: int) -> Record:
        values = found.values
        text = instruction(values["edit_prompt"])
        source = picture_in(values["source_image"])
        target = picture_in(values["edited_image"])
        mask = values["mask_image"]
        masks = () if mask is None else (picture_in(mask, "mask"),)
        return Record(
            id=record_id(self.name, content_key((source,), target, text)),
            dataset=self.name,
            images=(source, *masks),
            target=target,
            instruction=text,
            caption_source=caption(values["source_caption"]),
            caption_target=caption(values["target_caption"]),
            native_task=REGION if masks else FREE_FORM,
            quality=scores(values, SCORES),
            licence=self.licence.name,
            origin=found.origin,
        )
