"""`tagmoe eval compare`: two runs, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmoe.cli.eval.options import Bench
from tagmoe.cli.eval.report import Draws
from tagmoe.cli.options import AsJson, FixedSeed
from tagmoe.cli.output import print_result


def compare(
    bench: Bench,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another run.")],
    draws: Draws = 2000,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Print paired differences, B minus A, over the cases where both have a value, with 95 % intervals.

    Refuses runs of other cases, and metrics that one run lacks or has in another version.
    Example: tagmoe eval compare bench copy mine
    """
    from tagmoe.evaluate.benchmarks.cases import read_prepared
    from tagmoe.evaluate.comparison.pairs import compare as pair
    from tagmoe.evaluate.comparison.tables import digits, unit
    from tagmoe.evaluate.run_folder import read_run

    prepared = read_prepared(bench)
    summary = pair(prepared, read_run(a, prepared), read_run(b, prepared), draws=draws, seed=seed)
    editor = summary.editors[1]
    lines = [f"{summary.names[1]} minus {summary.names[0]}"]
    data = {}
    for name, found in editor.differences.items():
        if found.value.value is None:
            continue
        measure, value = summary.measures[name], found.value
        low, high = value.low, value.high
        between = (
            "no interval"
            if low is None or high is None
            else f"{digits(low, measure, signed=True)} to {digits(high, measure, signed=True)}"
        )
        shown = digits(found.value.value, measure, signed=True)
        lines.append(f"  {unit(measure):<24}{shown:>10}  ({between})  n {found.pairs:,}")
        data[name] = {**value.as_data(), "n": found.pairs, "better": measure.better}
    result = {"a": summary.names[0], "b": summary.names[1], "cases": prepared.manifest.digest, "differences": data}
    print_result(result, "\n".join(lines), as_json=as_json)
