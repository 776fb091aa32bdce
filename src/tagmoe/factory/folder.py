"""The folder of a synthesis, and what is kept of it.

FOLDER/plan.json       `Facts`: the plan, its makers, versions; a folder belongs to the makers that it began with
FOLDER/roots/          the store of roots, where the plan names a source and no store
FOLDER/refused/        the roots that may not be used, a file for each unit
FOLDER/editing/        pictures of a unit that is not whole yet, one line each
FOLDER/failed/         rows that gave no picture, with their reasons, a file for each unit
FOLDER/candidates/     the store of all pictures that were made, with a column for each step that looked at them
FOLDER/store/          the store of samples: what training reads
FOLDER/negatives/      the store of what was dropped, in quarantine, with the reasons
FOLDER/spent.json      seconds and questions of each step
FOLDER/survival.html   how many rows each step left, what a sample cost; survival.json: the same as data
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tagmoe.data.store.location import is_store
from tagmoe.data.store.record import Record, as_table
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.factory.makers import LINEAGE
from tagmoe.files.atomic import write_whole
from tagmoe.sentences import reason_of

FACTS, SPENT = "plan.json", "spent.json"
SURVIVAL, PAGE = "survival.json", "survival.html"
VERDICT = pa.struct(
    [
        ("status", pa.string()),
        ("passed", pa.bool_()),
        ("score", pa.float64()),
        ("reason", pa.string()),
        ("values", pa.string()),
        ("raw", pa.string()),
        ("key", pa.string()),
        ("model", pa.string()),
    ]
)
"""What a step says of a row: a column of the candidates. values: further numbers, as JSON."""


class Folder:
    """The files of a synthesis."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, facts: Mapping[str, Any]) -> None:
        """Make the folder, or go on with it.

        Raises UsageError where it belongs to other makers or roots, DataError where nothing can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / FACTS).exists():
                foreign = [item.name for item in self.path.iterdir() if not item.name.startswith(".")]
                if foreign:
                    raise UsageError(
                        f"The folder {str(self.path)!r} holds {foreign[0]!r}, which no synthesis wrote; choose another."
                    )
                self.write(FACTS, facts)
        except OSError as error:
            raise DataError(f"Nothing can be written in {str(self.path)!r} ({reason_of(error)}).") from None
        before = self.read(FACTS, {})
        changed = [name for name in facts["fixed"] if before.get("fixed", {}).get(name) != facts["fixed"][name]]
        if changed:
            raise UsageError(
                f"The folder {str(self.path)!r} was begun with other {' and '.join(changed)}; choose another folder, "
                "or delete this one."
            )
        if before != facts:
            self.write(FACTS, facts)

    def read(self, name: str, otherwise: Any) -> Any:
        """The content of a JSON file; `otherwise` where there is none. Raises DataError for a damaged one."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
        except (OSError, ValueError) as error:
            raise DataError(f"{str(path)!r} cannot be read ({reason_of(error)}); delete it.") from None

    def write(self, name: str, values: Any) -> None:
        """Write a JSON file, whole or not at all. Raises DataError where it cannot be written."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(values, indent=1, sort_keys=True) + "\n")
        except OSError as error:
            raise DataError(f"Nothing can be written in {str(self.path)!r} ({reason_of(error)}).") from None

    def store(self, name: str) -> Store:
        """A store of the folder, made where there is none; with the column LINEAGE."""
        opened = Store.open_or_create(self.path / name)
        if LINEAGE.name not in opened.columns:
            with opened.writing():
                opened.declare([LINEAGE])
        return opened

    def has(self, name: str) -> bool:
        """Whether the folder has a store of this name."""
        return is_store(str(self.path / name))

    def remove(self, *names: str) -> None:
        """Delete stores whose content follows from the candidates."""
        for name in names:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def failed(self, step: str) -> list[dict[str, Any]]:
        """The rows of a step that gave no picture."""
        files = sorted((self.path / "failed").glob(f"{step}-*.json"))
        return [row for path in files for row in self.read(str(path.relative_to(self.path)), [])]


def with_lineage(records: Sequence[Record], values: Sequence[str]) -> pa.Table:
    """The records as a table that `Store.append` takes, with their makers."""
    return as_table(records).append_column(LINEAGE, pa.array(values, LINEAGE.type))


def verdict(
    passed: bool, reason: str = "", score: float | None = None, *, status: str = "ok", **more: Any
) -> dict[str, Any]:
    """A value of VERDICT."""
    values = json.dumps(more.pop("values")) if "values" in more else None
    return {"status": status, "passed": passed, "score": score, "reason": reason, "values": values} | {
        name: more.get(name) for name in ("raw", "key", "model")
    }
