"""GEditBench v2 (data `GEditBench-v2/GEditBench-v2`): 1,200 real requests of 23 tasks, one of them open.

By its scripts (ZhangqiJiang07/GEditBench_v2 3081f67 and 11acb46, read 2026-11-30) it comes in two layouts, and both are
read: a data set of `save_to_disk` with key, instruction and the picture source_image; and metadata.jsonl, where
source_image is a path. No script reads a task: where no column `task` is there, it is the key without its number
(background_change_000000). Its licence could not be confirmed. Its score is pairwise, by a judge, and is not here yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tagmoe.evaluate.benchmarks.benchmark import Pictures, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_tables import TableRow, identifier, text
from tagmoe.evaluate.benchmarks.table_benchmark import TableBenchmark

_NUMBERED = re.compile(r"(.+?)[_-]\d+")


class GEditBenchV2(TableBenchmark):
    """GEditBench v2; it has no options."""

    name = "gedit-bench-v2"
    about = "GEditBench v2: 1,200 real requests of 23 tasks"
    licence = "not stated by its authors: ask them before you publish its pictures"
    needed = ("key", "instruction", "source_image")
    optional = ("task",)

    def choices(self) -> Mapping[str, Any]:
        return {}

    def identifier(self, row: TableRow) -> str:
        """Its key, as its scripts and the gallery of candidates name outputs below MODEL."""
        return identifier(row.values.get("key"))

    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        values = row.values
        task = text(values, "task", optional=True)
        if not task:
            numbered = _NUMBERED.fullmatch(name)
            if numbered is None:
                raise UnusableCase(f"neither a column nor its key {name!r} tells its task")
            task = numbered[1]
        return Case(
            bench=self.name,
            id=name,
            task=task,
            instruction=text(values, "instruction"),
            source=self.table.picture(values.get("source_image"), "source_image", pictures, beside=row.file.parent),
        )
