"""What the benchmarks share that are published as tables of rows with pictures in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_tables import Table, TableRow


class TableBenchmark(ABC):
    """A benchmark in the rows of a table. A subclass names its columns and makes cases of rows.

    `chosen` leaves out rows that the user did not ask for, such as those of another language; they are counted in the
    settings and are no failures. Rows that were asked for and give no case are listed by `prepare`.
    """

    name: str
    about: str
    licence: str
    needed: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, str]] = {}
    """What --set may give, and which values it has."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where there is nothing, DataError for files that are not of the published form."""
        self._name = path.resolve().name
        self.table = Table(path, self.needed, self.optional)
        self._not_chosen: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        """The chosen rows in their order."""
        self._not_chosen.clear()
        for row in self.table.rows():
            try:
                why_not = self.chosen(row)
                if why_not:
                    self._not_chosen[why_not] += 1
                    continue
                yield Row(self.identifier(row), {"row": row})
            except UnusableCase as error:
                yield Row(f"{row.file.name}:{row.number}", {"error": str(error)})

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row."""
        if "error" in row.fields:
            raise UnusableCase(row.fields["error"])
        return self.case_of(row.id, row.fields["row"], pictures)

    def settings(self) -> Mapping[str, Any]:
        """What the user chose; after the rows were read also how many of them were not asked for, by why."""
        return {**self.choices(), **({"not_chosen": dict(self._not_chosen)} if self._not_chosen else {})}

    def made_from(self) -> str:
        """The name of the folder or file."""
        return self._name

    @abstractmethod
    def choices(self) -> Mapping[str, Any]:
        """The options."""

    def chosen(self, row: TableRow) -> str:
        """Empty for a row that was asked for, else why it is left out, in a few words."""
        return ""

    @abstractmethod
    def identifier(self, row: TableRow) -> str:
        """The id of the case: the path without ending under which the benchmark's own scripts keep its output."""

    @abstractmethod
    def case_of(self, name: str, row: TableRow, pictures: Pictures) -> Case:
        """The case of a row. name: its id. Raises UnusableCase."""
