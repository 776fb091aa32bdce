"""The Emu Edit test set (arXiv 2311.10089; data `facebook/emu_edit_test_set`, CC-BY-NC-4.0); the paper's Table 2.

Columns by the listing of the data sets (read 2026-11-28; the card itself was not at hand): instruction, image, task,
split, idx, hash, input_caption, output_caption. The set with the outputs of Emu Edit itself
(`facebook/emu_edit_test_set_generations`) has edited_image and model besides.

- The two sets have the names of their splits exchanged: 2,022 rows are `validation` in one and `test` in the other. A
  split here has the name that it has in the set of inputs, from whichever set it is read, and outputs are joined by
  `hash`, never by the name of a split. The column `split` is not read: which of the two names it holds is not known.
- Captions are noisy: `filter: same-caption` leaves out rows whose two captions are the same. What the paper did, and
  which split it took, is not known.
- Older revisions of the inputs hold shards twice; a row that comes again is listed. Take the newest revision.
- edited_image is what one editor gave and no right answer: it becomes a folder of ready outputs and no target.

Its pictures come from MagicBrush: a model that is scored here must not be trained on that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.option_values import one_of
from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_tables import Table, TableRow, identifier, text
from tagmoe.evaluate.benchmarks.table_benchmark import TableBenchmark

SPLITS = ("validation", "test")
EXCHANGED = {"validation": "test", "test": "validation"}
EDITOR = "emu-edit"
"""The folder of the outputs of Emu Edit."""


class EmuEdit(TableBenchmark):
    """The Emu Edit test set. split: validation, test or all, as the set of inputs calls them. filter: none, or
    same-caption. generations: the folder of the set with Emu Edit's outputs, where they are wanted, too."""

    name = "emu-edit"
    about = "Emu Edit test set: 5,611 edits of 8 or fewer tasks; the paper's Table 2"
    licence = "CC-BY-NC-4.0"
    needed = ("instruction", "image", "task", "idx", "hash")
    optional = ("input_caption", "output_caption", "edited_image")
    options: ClassVar[Mapping[str, str]] = {
        "split": "all (default), validation, test",
        "filter": "none (default), same-caption",
        "generations": "the folder of the set with Emu Edit's outputs",
    }

    def __init__(
        self, path: Path, *, split: str = "all", filter: str = "none", generations: str | Path | None = None
    ) -> None:
        self._split = one_of("split", split, (*SPLITS, "all"))
        self._filter = one_of("filter", filter, ("none", "same-caption"))
        super().__init__(path)
        self._is_exchanged = _has_outputs(self.table)
        self._made = None if generations is None else _Generations(Path(generations))

    def choices(self) -> Mapping[str, Any]:
        return {
            "split": self._split,
            "filter": self._filter,
            **({} if self._made is None else {"generations": self._made.name}),
        }

    def chosen(self, row: TableRow) -> str:
        split = self._split_of(row)
        if self._split not in (split, "all"):
            return f"split {split}"
        if self._filter == "same-caption":
            captions = [text(row.values, name, optional=True) for name in ("input_caption", "output_caption")]
            if captions[0] == captions[1]:
                return "same caption"
        return ""

    def identifier(self, row: TableRow) -> str:
        """SPLIT_TASK_IDX, as Meta's loader names rows."""
        number = identifier(row.values["idx"])
        return f"{self._split_of(row)}_{text(row.values, 'task')}_{number}" if number else ""

    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        values = row.values
        caption = text(values, "output_caption", optional=True)
        return Case(
            bench=self.name,
            id=name,
            task=text(values, "task"),
            instruction=text(values, "instruction"),
            target_caption=caption or None,
            caption_origin="dataset" if caption else None,
            source=self.table.picture(values["image"], "image", pictures),
            split=self._split_of(row),
            meta={"hash": identifier(values["hash"])},
        )

    def _split_of(self, row: TableRow) -> str:
        """The split by the name that it has in the set of inputs."""
        if row.split not in SPLITS:
            raise DataError(
                f"The name of {row.file.name!r} tells neither split (validation, test); give the files as they were "
                "published."
            )
        return EXCHANGED[row.split] if self._is_exchanged else row.split

    def outputs(self, row: Row) -> Iterator[tuple[str, bytes]]:
        """The output of Emu Edit: of the row itself, or of the row of the other set that has its hash."""
        found: TableRow = row.fields["row"]
        data = picture_bytes(found.values.get("edited_image")) or (
            None if self._made is None else self._made.output(found)
        )
        if data is not None:
            yield EDITOR, data


def _has_outputs(table: Table) -> bool:
    """Whether the first row that can be read holds an output."""
    for row in table.rows():
        with suppress(UnusableCase):
            return row.values.get("edited_image") is not None
    return False


class _Generations:
    """The outputs of the other set: by hash, and by hash, task and number where several rows have one hash."""

    def __init__(self, path: Path) -> None:
        """Raises as `Table` does; a set without outputs lacks a column."""
        self.name = path.resolve().name
        by_key: dict[tuple[str, ...], list[TableRow]] = defaultdict(list)
        # The pictures of a row are read when its case has come; to find it, the small columns are enough.
        keys = [_keys(row) for row in Table(path, ("hash", "task", "idx")).rows()]
        rows = Table(path, ("edited_image",)).rows()
        for key, row in zip(keys, rows, strict=True):
            for one in key:
                by_key[one].append(row)
        self._rows = {key: found[0] for key, found in by_key.items() if len(found) == 1}

    def output(self, row: TableRow) -> bytes | None:
        """The output that belongs to a row of inputs; None where no single row does. Each is given once."""
        found = [self._rows.pop(key, None) for key in _keys(row)]
        made = next((one for one in found if one is not None), None)
        # A row keeps its picture once it was read, so none is kept here.
        return None if made is None else picture_bytes(made.values["edited_image"])


def picture_bytes(value: Any) -> bytes | None:
    """The bytes in a column of pictures; None where there are none."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else None


def _keys(row: TableRow) -> list[tuple[str, ...]]:
    """What a row may be found by, the best first; nothing for a row that cannot be read, which `prepare` lists."""
    try:
        values = row.values
    except UnusableCase:
        return []
    name = identifier(values["hash"])
    return [(name,), (name, identifier(values["task"]), identifier(values["idx"]))] if name else []
