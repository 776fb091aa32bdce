"""What every benchmark is: rows of published files, each of which gives a case or the reason why there is none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tagmoe.errors import DataError, ImageError
from tagmoe.evaluate.benchmarks.cases import (
    CASES,
    MANIFEST,
    OUTPUT_TABLE,
    OUTPUTS,
    PICTURES,
    Case,
    LeftOut,
    Manifest,
    digest_of_cases,
)
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_lines import as_line
from tagmoe.pictures import load_image, read_header
from tagmoe.report.printable import printable


class UnusableCase(Exception):
    """A row of the published files gives no case; the message says why, in a few words."""


class Pictures:
    """Keeps the pictures of the cases, each once, under the digest of its bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[str] = set()

    def add(self, data: bytes, role: str) -> str:
        """The picture's path in the folder. role: what it is called when it is unusable. Raises UnusableCase."""
        digest = hashlib.sha256(data).hexdigest()
        try:
            name = f"{PICTURES}/{digest[:2]}/{digest}.{read_header(data).extension}"
            if name not in self._known:
                # Decoded once, here: a case with a damaged picture must not be found out after hours of editing.
                load_image(data)
        except ImageError as error:
            raise UnusableCase(f"{role}: {error}") from None
        if name not in self._known:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self._known.add(name)
        return name


class PublishedOutputs:
    """Outputs of editors that a data set holds, each editor's as a folder of ready outputs: FOLDER/NAME."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables: dict[str, dict[str, str]] = {}

    def add(self, case: str, outputs: Iterable[tuple[str, bytes]]) -> None:
        """Keep the outputs of a case. A damaged one is kept, too: it is found when it is taken for an answer."""
        for name, data in outputs:
            file = f"{hashlib.sha256(data).hexdigest()}.png"
            path = self._folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self._tables.setdefault(name, {})[case] = file

    def finish(self) -> None:
        """Write the table of each folder."""
        for name, table in self._tables.items():
            write_whole(self._folder / name / OUTPUT_TABLE, json.dumps(table, indent=1) + "\n")


@dataclass(frozen=True)
class Row:
    """A row of the published files. id: empty where it has none. fields: read when the case is made; a row that cannot
    be read raises UnusableCase then."""

    id: str
    fields: Mapping[str, Any]


class Benchmark(Protocol):
    """Cases from files. It knows no editor and no metric."""

    name: str
    about: str
    licence: str

    def rows(self) -> Iterator[Row]:
        """All rows in their order. Raises DataError for files that are not of the published form."""
        ...

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row, with its pictures kept. Raises UnusableCase."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What the user chose, as plain data."""
        ...

    def made_from(self) -> str:
        """The name of what it was read from; no path."""
        ...


class WithOutputs(Benchmark, Protocol):
    """A benchmark that was published with outputs of editors."""

    def outputs(self, row: Row) -> Iterator[tuple[str, bytes]]:
        """(name of the editor, bytes of its output) for a row that gave a case."""
        ...


def prepare(
    benchmark: Benchmark,
    folder: Path,
    *,
    repository: str | None = None,
    revision: str | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the benchmark into an existing empty folder; returns what is in it, with the rows that were left out.

    repository, revision: of the hub, where the files come from it. on_rows: called with (rows done, 0), since nobody
    knows how many there are. Outputs of editors that were published with it
    become folders of ready outputs, OUTPUTS/NAME.

    An id that comes again is left out: nobody knows which of the two the outputs of others belong to, so the first
    stays and the other is listed. Raises DataError where no row gives a case, and OSError.
    """
    pictures = Pictures(folder)
    published = PublishedOutputs(folder / OUTPUTS)
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    ids: set[str] = set()
    for number, row in enumerate(benchmark.rows(), 1):
        try:
            if not row.id:
                raise UnusableCase("it has no id")
            if row.id in ids:
                raise UnusableCase("its id stands twice in the files")
            cases.append(_storable(benchmark.case(row, pictures)))
            ids.add(row.id)
            if hasattr(benchmark, "outputs"):
                published.add(row.id, benchmark.outputs(row))
        except UnusableCase as error:
            left_out.append(LeftOut(row=number, id=printable(row.id), reason=printable(str(error))))
        if on_rows is not None:
            on_rows(number, 0)
    if not cases:
        why = f"; row {left_out[0].row}: {left_out[0].reason}" if left_out else ""
        raise DataError(f"No row of {benchmark.made_from()!r} gives a case of {benchmark.name}{why}.")
    tasks: dict[str, int] = {}
    for case in cases:
        tasks[case.task] = tasks.get(case.task, 0) + 1
    manifest = Manifest(
        benchmark=benchmark.name,
        licence=benchmark.licence,
        # The folder of a snapshot is called by its commit.
        made_from=repository or benchmark.made_from(),
        repository=repository,
        revision=revision,
        settings=dict(benchmark.settings()),
        cases=len(cases),
        tasks=tasks,
        digest=digest_of_cases(cases),
        left_out=tuple(left_out),
    )
    published.finish()
    write_whole(folder / CASES, "".join(as_line(case.model_dump_json()) for case in cases))
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _storable(case: Case) -> Case:
    """The case, if it can be written as UTF-8. JSON may contain half of a surrogate pair. Raises UnusableCase."""
    try:
        case.model_dump_json()
    except ValueError:
        raise UnusableCase("a text of it is no text in UTF-8") from None
    return case
