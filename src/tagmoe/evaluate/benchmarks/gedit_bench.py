"""GEdit-Bench (arXiv 2504.17761; data `stepfun-ai/GEdit-Bench`, MIT): real requests of 11 kinds; the paper's Table 2.

Columns by its scripts (stepfun-ai/Step1X-Edit 570eba6, read 2026-11-28): task_type, key, instruction,
instruction_language (en or cn), input_image, input_image_raw, Intersection_exist. Its only split comes as a DatasetDict
on the disk or as Parquet. It has no captions; `captions` gives ones that a model wrote (JSON lines of id and caption),
which every table then says of CLIP-cap. How the two pictures of a row differ could not be confirmed: input_image
is what its scorer compares with, and is taken unless `picture` says otherwise. A row of a language that is none of the
two is listed: the scripts offer `zh`, which the data never has.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.option_values import one_of
from tagmoe.errors import UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case, digest_of
from tagmoe.evaluate.benchmarks.published_tables import TableRow, identifier, text
from tagmoe.evaluate.benchmarks.table_benchmark import TableBenchmark
from tagmoe.files.json_lines import lines_of
from tagmoe.sentences import reason_of

LANGUAGES = ("en", "cn")
PICTURES = ("input_image", "input_image_raw")


class GEditBench(TableBenchmark):
    """GEdit-Bench. language: en, cn or all. subset: full, or intersection, which every editor of its paper answered."""

    name = "gedit-bench"
    about = "GEdit-Bench: 606 real requests of 11 kinds in English and Chinese; the paper's Table 2"
    licence = "MIT"
    needed = ("task_type", "key", "instruction", "instruction_language")
    optional = (*PICTURES, "Intersection_exist")
    options: ClassVar[Mapping[str, str]] = {
        "language": "en (default), cn, all",
        "subset": "full (default), intersection",
        "picture": "input_image (default), input_image_raw",
        "captions": "a file of JSON lines with id and caption; none by default",
    }

    def __init__(
        self,
        path: Path,
        *,
        language: str = "en",
        subset: str = "full",
        picture: str = PICTURES[0],
        captions: str | None = None,
    ) -> None:
        """Raises UsageError for other values of the options, and for a file of captions that is none."""
        self._language = one_of("language", language, (*LANGUAGES, "all"))
        self._subset = one_of("subset", subset, ("full", "intersection"))
        self._picture = one_of("picture", picture, PICTURES)
        self._captions = {} if captions is None else read_captions(Path(captions))
        super().__init__(path)

    def choices(self) -> Mapping[str, Any]:
        own = {"captions": digest_of(self._captions)} if self._captions else {}
        return {"language": self._language, "subset": self._subset, "picture": self._picture, **own}

    def chosen(self, row: TableRow) -> str:
        language = text(row.values, "instruction_language")
        if language not in LANGUAGES:
            raise UnusableCase(f"its language {language!r} is none of {' and '.join(LANGUAGES)}")
        if self._language not in (language, "all"):
            return f"language {language}"
        if self._subset == "intersection":
            is_shared = row.values.get("Intersection_exist")
            if not isinstance(is_shared, bool):
                raise UnusableCase("it has no Intersection_exist")
            return "" if is_shared else "not in the intersection"
        return ""

    def identifier(self, row: TableRow) -> str:
        """TASK/LANGUAGE/KEY, as its scripts name outputs below MODEL/fullset."""
        key = identifier(row.values["key"])
        return f"{text(row.values, 'task_type')}/{text(row.values, 'instruction_language')}/{key}" if key else ""

    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        values = row.values
        caption = self._captions.get(name)
        return Case(
            bench=self.name,
            id=name,
            task=text(values, "task_type"),
            lang=text(values, "instruction_language"),
            instruction=text(values, "instruction"),
            target_caption=caption,
            caption_origin=None if caption is None else "generated",
            source=self.table.picture(values.get(self._picture), self._picture, pictures),
            meta={"intersection": values["Intersection_exist"]} if "Intersection_exist" in values else {},
        )


def read_captions(file: Path) -> dict[str, str]:
    """{id of the case: caption} of JSON lines with id and caption. Raises UsageError for another file."""
    try:
        rows = [loads(line) for line in lines_of(file.read_text(encoding="utf-8"))]
        found = {row["id"]: row["caption"] for row in rows}
    except (OSError, UnicodeError, JSONDecodeError) as error:
        raise UsageError(f"The captions {str(file)!r} cannot be read ({reason_of(error)}).") from None
    except (KeyError, TypeError):
        found = {}
    if not found or not all(isinstance(one, str) and one.strip() for pair in found.items() for one in pair):
        raise UsageError(f"The captions {str(file)!r} are no JSON lines with id and caption, both of them texts.")
    return found
