"""`tagmoe study simulate`: answers of simulated people whose taste is known."""

from __future__ import annotations

from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, FixedSeed
from tagmoe.cli.output import log, print_result
from tagmoe.cli.study.options import Study
from tagmoe.errors import UsageError
from tagmoe.sentences import counted


def simulate(
    study: Study,
    taste: Annotated[
        list[str],
        typer.Option(metavar="METHOD=WEIGHT", help="How much a method is liked; one for each, such as --taste ours=3."),
    ],
    case_sd: Annotated[float, typer.Option(min=0, max=10, help="How much cases differ, in units of utility.")] = 0.6,
    person_sd: Annotated[float, typer.Option(min=0, max=10, help="How much people differ.")] = 0.4,
    careless: Annotated[float, typer.Option(min=0, max=1, help="Share of people who click anywhere.")] = 0.0,
    position: Annotated[float, typer.Option(min=-10, max=10, help="Utility of standing first.")] = 0.0,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Fill the study with answers of simulated people, kept apart and marked, to see what the analysis recovers.

    Example: tagmoe study simulate study --taste ours=3 --taste base=1
    """
    from tagmoe.study.manifest import SIMULATED, read_manifest
    from tagmoe.study.panel import Panel, answer_all
    from tagmoe.study.store import Store

    manifest = read_manifest(study)
    panel = Panel(_weights(taste), case_sd, person_sd, careless, position=position, seed=seed)
    panel.check(manifest)
    path = study / SIMULATED
    if path.exists():
        raise UsageError(f"{str(path)!r} holds simulated answers already; delete it to simulate anew.")
    about = panel.about(manifest)
    store = Store(path, manifest.digest, True, about)
    try:
        pages = answer_all(manifest, store, panel)
    finally:
        store.close()
    log(f"{counted(pages, 'page')} answered by {counted(manifest.people, 'simulated person', 'simulated people')}")
    data = {"study": str(study), "answers": str(path), "pages": pages, "expected": about["expected"]}
    print_result(data, str(path), as_json=as_json)


def _weights(given: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in given:
        name, equals, weight = text.rpartition("=")
        try:
            value = float(weight) if equals else float("nan")
        except ValueError:
            value = float("nan")
        if not 0 < value < 1e6 or not name:
            raise UsageError(f"--taste is {text!r}; give METHOD=WEIGHT with a weight above 0, such as ours=3.")
        if name in weights:
            raise UsageError(f"--taste names {name!r} twice; give each method one weight.")
        weights[name] = value
    return weights
