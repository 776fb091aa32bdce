"""Our means beside the paper's Tables 1 to 3: only of the same benchmark and the same measures, with what is unknown.

The numbers and the caveats stand in paper_tables.yaml. Table 4 is left out: several of its cells are those of other
methods in Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Self

from pydantic import model_validator

from tagmoe.config.part import Part
from tagmoe.evaluate.comparison.summary import Summary
from tagmoe.files.yaml_text import read_yaml

FILE = "paper_tables.yaml"


class PaperTable(Part):
    """The columns of one of the paper's tables on one benchmark. cases: how many its set may have had."""

    table: int
    cases: tuple[int, ...]
    columns: tuple[str, ...]
    caveats: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        short = [name for name, values in self.rows.items() if len(values) != len(self.columns)]
        if short:
            raise ValueError(f"the row {short[0]!r} has not a value for each column")
        return self


class PaperTables(Part):
    """All of them by benchmark. source: where the numbers are from. caveats: those of all tables."""

    source: str
    caveats: tuple[str, ...]
    tables: dict[str, PaperTable]


@dataclass(frozen=True)
class Beside:
    """What an editor's mean is less the paper's number. micro, macro: by which mean of ours; None where there is
    none."""

    paper: float | None
    micro: float | None
    macro: float | None


@dataclass(frozen=True)
class PaperComparison:
    """The runs beside the paper's table. columns: those that some run has. missing: those that no run has.
    differences: editor -> the paper's method -> column."""

    table: int
    source: str
    caveats: tuple[str, ...]
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    differences: dict[str, dict[str, dict[str, Beside]]]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "table": self.table,
            "source": self.source,
            "caveats": list(self.caveats),
            "columns": list(self.columns),
            "not_measured": list(self.missing),
            "differences": {
                editor: {
                    method: {
                        name: {"paper": one.paper, "micro_minus_paper": one.micro, "macro_minus_paper": one.macro}
                        for name, one in found.items()
                    }
                    for method, found in methods.items()
                }
                for editor, methods in self.differences.items()
            },
        }


@cache
def paper_tables() -> PaperTables:
    """The tables as they stand in the file."""
    text = files("tagmoe.evaluate.comparison").joinpath(FILE).read_text(encoding="utf-8")
    return PaperTables.model_validate(read_yaml(text, FILE))


def beside_the_paper(summary: Summary) -> PaperComparison | None:
    """The runs beside the paper's table on their benchmark; None where it has none."""
    known, manifest = paper_tables(), summary.prepared.manifest
    table = known.tables.get(manifest.benchmark)
    if table is None:
        return None
    measured = [
        name for name in table.columns if any(name in e.figures and e.figures[name].cases for e in summary.editors)
    ]
    caveats = [*table.caveats, *known.caveats]
    if manifest.cases not in table.cases:
        sizes = " or ".join(f"{count:,}" for count in table.cases)
        caveats.insert(
            0, f"The paper's set has {sizes} cases, and this one {manifest.cases:,}: other cases, other means."
        )
    differences = {
        name: {
            method: {
                column: _beside(editor.figures[column].micro.value, editor.figures[column].macro.value, number)
                for column, number in zip(table.columns, numbers, strict=True)
                if column in measured
            }
            for method, numbers in table.rows.items()
        }
        for name, editor in zip(summary.names, summary.editors, strict=True)
        if measured and editor.run.facts.editor.get("kind") != "anchor"
    }
    return PaperComparison(
        table=table.table,
        source=known.source,
        caveats=tuple(caveats),
        columns=tuple(measured),
        missing=tuple(name for name in table.columns if name not in measured),
        differences=differences,
    )


def _beside(micro: float | None, macro: float | None, paper: float | None) -> Beside:
    if paper is None:
        return Beside(None, None, None)
    return Beside(paper, *(None if value is None else value - paper for value in (micro, macro)))
