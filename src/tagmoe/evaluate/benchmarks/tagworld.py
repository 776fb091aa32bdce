"""TagWorld as a benchmark: test cases of every task, drawn from a seed, with their targets and edit masks."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.errors import UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.tagworld import cases as draw_cases
from tagmoe.world import Sample

NAME = "tagworld"


class TagWorld:
    """`per_task` cases of each task from the split "test". The files are its own: nothing is read."""

    name = NAME
    about = "TagWorld: 25 tasks of a drawn picture world, judged exactly from the pixels"
    licence = "Apache-2.0"

    def __init__(self, per_task: int = 16, seed: int = 0) -> None:
        """Raises UsageError for fewer than one case."""
        if per_task < 1:
            raise UsageError(f"The number of cases a task is {per_task}; give 1 or more.")
        self._per_task, self._seed = per_task, seed

    def rows(self) -> Iterator[Row]:
        """One row a case, in the order of tasks."""
        for sample in draw_cases(self._per_task, self._seed):
            yield Row(f"{sample.task}-{sample.seed}-{sample.index}", {"sample": sample})

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case with its pictures as BMP."""
        sample: Sample = row.fields["sample"]
        sources = tuple(pictures.add(_bmp(source), "source") for source in sample.sources)
        return Case(
            bench=self.name,
            id=row.id,
            task=sample.task,
            instruction=sample.instruction,
            # Where the whole picture is new (subject, style, structure), what is given is a reference, not a source.
            source=sources[0] if sample.is_edit else None,
            mask=pictures.add(_bmp(np.uint8(255) * sample.mask), "mask") if sample.is_edit else None,
            refs=() if sample.is_edit else sources,
            target=pictures.add(_bmp(sample.target), "target"),
            split=sample.split,
            meta={
                "seed": sample.seed,
                "index": sample.index,
                "divide": sample.divide,
                "held_out_paraphrase": sample.held_out_paraphrase,
                "held_out_combination": sample.held_out_combination,
            },
        )

    def settings(self) -> Mapping[str, Any]:
        """Cases a task, and the seed."""
        return {"per_task": self._per_task, "seed": self._seed}

    def made_from(self) -> str:
        """The generator."""
        return "tagmoe.world"


def _bmp(picture: np.ndarray) -> bytes:
    """Uncompressed: the digest of a case is over these bytes, and each version of zlib compresses a PNG otherwise."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="BMP")
    return buffer.getvalue()
