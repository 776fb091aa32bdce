"""OmniContext (arXiv 2506.18871; data `OmniGen2/OmniContext`, split train): pictures from references; Table 3.

Columns by its scripts (VectorSpaceLab/OmniGen2 0f72fa9 and 63a3b7b, read 2026-11-28 and 2026-11-30): key, task_type,
instruction, instruction_language, input_images (a list). Its own score counts English rows alone. Pictures are turned
upright as its scripts do, which happens when they are opened. Its editors draw 1024x1024. Whether it has 50 cases of
each of 8 tasks, and its licence, could not be confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.option_values import one_of
from tagmoe.evaluate.benchmarks.benchmark import Pictures, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_tables import TableRow, identifier, text
from tagmoe.evaluate.benchmarks.table_benchmark import TableBenchmark

TASKS = (
    "single_character",
    "single_object",
    "multi_character",
    "multi_object",
    "multi_character_object",
    "scene_character",
    "scene_object",
    "scene_character_object",
)
REFERENCES = {"character": "face", "object": "subject"}
"""What the words of a task's name show. The paper does not say which cases its columns are of. [ours]"""


class OmniContext(TableBenchmark):
    """OmniContext. language: en, or all."""

    name = "omnicontext"
    about = "OmniContext: characters, objects and scenes from one or more references; the paper's Table 3"
    licence = "not stated by its authors (the code is Apache-2.0): ask them before you publish its pictures"
    needed = ("key", "task_type", "instruction", "input_images")
    optional = ("instruction_language",)
    options: ClassVar[Mapping[str, str]] = {"language": "en (default), all"}

    def __init__(self, path: Path, *, language: str = "en") -> None:
        self._language = one_of("language", language, ("en", "all"))
        super().__init__(path)

    def choices(self) -> Mapping[str, Any]:
        return {"language": self._language}

    def chosen(self, row: TableRow) -> str:
        language = text(row.values, "instruction_language", optional=True) or "en"
        return "" if self._language in (language, "all") else f"language {language}"

    def identifier(self, row: TableRow) -> str:
        """TASK/KEY, as its scripts name outputs below MODEL/fullset."""
        key = identifier(row.values.get("key"))
        return f"{text(row.values, 'task_type')}/{key}" if key else ""

    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        values = row.values
        task, words = text(values, "task_type"), text(values, "instruction")
        if task not in TASKS:
            raise UnusableCase(f"its task {task!r} is unknown")
        given = values.get("input_images")
        if not isinstance(given, list) or not given:
            raise UnusableCase("its input_images is no list of pictures")
        return Case(
            bench=self.name,
            id=name,
            task=task,
            lang=text(values, "instruction_language", optional=True) or "en",
            instruction=words,
            # It has no captions: its instruction is what a caption would be compared with.
            target_caption=words,
            caption_origin="prompt",
            refs=tuple(self.table.picture(one, "input_images", pictures, beside=row.file.parent) for one in given),
            meta={"reference": [shows for word, shows in REFERENCES.items() if word in task]},
        )
