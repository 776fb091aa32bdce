"""`tagmoe eval compare`: two runs, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.eval.options import Bench
from tagmoe.cli.eval.report import Draws
from tagmoe.cli.options import AsJson, FixedSeed
from tagmoe.cli.output import print_result
from tagmoe.errors import ResultError
from tagmoe.report.numbers import named
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.evaluate.comparison.summary import Editor


def compare(
    bench: Bench,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another run.")],
    draws: Draws = 2000,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Print paired differences, B minus A, over the cases where both have a value, with 95 % intervals.

    Refuses runs of other cases or without a case in common, and metrics that one run lacks or has in another version.
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
        asked = editor.figures[name].applicable
        data[name] = {**value.as_data(), "n": found.pairs, "applicable": asked, "better": measure.better}
    if not data:
        raise ResultError("The runs cannot be compared: no case has a value in both; score the same cases of both.")
    rests_on = [_rests_on(one) for one in summary.editors]
    about = [f"cases {prepared.manifest.digest[:12]}; bootstrap of {counted(draws, 'draw')}, seed {seed}"]
    about += [
        f"{name}: {named({key: value for key, value in one.items() if value is not None})}"
        for name, one in zip(summary.names, rests_on, strict=True)
    ]
    result = {
        "a": summary.names[0],
        "b": summary.names[1],
        "cases": prepared.manifest.digest,
        "bootstrap": {"draws": draws, "seed": seed, "groups": summary.groups},
        "rests_on": dict(zip("ab", rests_on, strict=True)),
        "differences": data,
    }
    print_result(result, "\n".join(lines), as_json=as_json, about=about)


def _rests_on(editor: Editor) -> dict[str, Any]:
    """What the numbers of a run rest on; the report has the rest."""
    facts = editor.run.facts
    weights = facts.editor.get("weights") or facts.editor.get("digest") or facts.editor.get("code")
    versions = ", ".join(f"{name} {version}" for name, version in editor.versions.items())
    return {"key": facts.key, "seed": facts.seed, "weights": weights, "metrics": versions}
