"""Count the records of a store by data set, task, tag, size, licence, split, operation and quarantine.

No picture is read, as sizes have columns of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagmoe.data.store.store import IMPORT_NOTE, Store
from tagmoe.tags import TAGS

SCAN_ROWS = 16_384
NO_TAGS = "(not annotated)"
NO_TASK = "(none given)"
NOT_CHECKED, SOUND = "(not checked)", "(sound)"
WIDTH, HEIGHT = "target.width", "target.height"
TEXT_GROUPS = {"dataset": "dataset", "native_task": "task", "licence": "licence", "split": "split"}


@dataclass(frozen=True)
class Statistics:
    """Counts of records.

    groups: name of the group, then number of records by value, the most frequent value first. In the groups "tag" and
    "quarantine" a record counts once for each of its tags or findings. imports: the notes of all imports.
    """

    records: int
    groups: Mapping[str, Mapping[str, int]]
    imports: tuple[Mapping[str, Any], ...]


def statistics(store: Store, *, progress: Callable[[int, int], None] | None = None) -> Statistics:
    """Count all rows. progress(rows done, in all)."""
    columns = [*TEXT_GROUPS, "operation", "tags", WIDTH, HEIGHT]
    if "quarantine" in store.columns:
        columns.append("quarantine")
    names = [*TEXT_GROUPS.values(), "operation", "tag", "size"]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    done, total = 0, len(store)
    for batch in store.scan(columns, rows=SCAN_ROWS):
        for column, name in {**TEXT_GROUPS, "operation": "operation"}.items():
            counts[name].update(_counted(batch[column]))
        sizes = zip(batch[WIDTH].to_pylist(), batch[HEIGHT].to_pylist(), strict=True)
        counts["size"].update(f"{width}x{height}" for width, height in sizes)
        tags = batch["tags"]
        counts["tag"].update({TAGS[int(index)].name: count for index, count in _counted(pc.list_flatten(tags)).items()})
        counts["tag"][NO_TAGS] += tags.null_count
        if "quarantine" in batch.schema.names:
            found = counts.setdefault("quarantine", Counter())
            column = batch["quarantine"]
            found.update(_counted(pc.list_flatten(column)))
            found[NOT_CHECKED] += column.null_count
            found[SOUND] += pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0
        done += len(batch)
        if progress is not None:
            progress(done, total)
    if "" in counts["task"]:
        counts["task"][NO_TASK] = counts["task"].pop("")
    groups = {name: _sorted(found) for name, found in counts.items()}
    return Statistics(done, groups, tuple(store.notes(IMPORT_NOTE).values()))


def _counted(values: pa.Array) -> dict[str, int]:
    return {str(item["values"]): item["counts"] for item in pc.value_counts(values).to_pylist()}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    found = [(name, count) for name, count in counts.items() if count]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))
