"""The reporting checklist of a study, filled in from its plan and answers (items after Otani et al. 2023, 2304.01816).

What only the people who ran the study can know is left open, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tagmoe.report.numbers import named
from tagmoe.sentences import counted
from tagmoe.study.analysis import Analysis

OPEN = "to be filled in by the authors"


class Item(NamedTuple):
    """A line of the checklist. is_open: nobody but the authors can say."""

    name: str
    value: str
    is_open: bool = False


def checklist(analysis: Analysis, reframed: Mapping[str, int]) -> list[Item]:
    """All items."""
    m, collected = analysis.manifest, analysis.collected
    questions = next(iter(m.languages.values())).criteria
    strata = Counter(case.stratum for case in m.cases)
    kinds = Counter(trial.kind for sheet in m.sheets for trial in sheet)
    expertise = Counter(
        person["expertise"] or "no answer"
        for person in collected.kept.people.values()
        if person["consented"] is not None
    )
    screens = Counter(p["screen"] for p in collected.kept.people.values() if p["consented"] is not None)
    languages = Counter(p["language"] for p in collected.kept.people.values() if p["consented"] is not None)
    sizes = sorted(Counter(len(sheet) for sheet in m.sheets).items())
    twins = sum(case.twins > 0 for case in m.cases)
    shapes = {name: count for name, count in reframed.items() if count}
    return [
        Item("Where the answers come from", "SIMULATED people" if analysis.simulated else "people, by personal link"),
        Item("Task", f"choose the best of {len(m.methods)} pictures, all shown at once, for each criterion"),
        Item("Questions as they were asked", " | ".join(f"{q.name}: {q.question}" for q in questions.values())),
        Item("Methods", ", ".join(m.names) + f"; ours is {m.ours}"),
        Item("Cases", f"{len(m.cases)} from {m.made_from}, seed {m.seed}: {named(dict(sorted(strata.items())))}"),
        Item("Cases left out", counted(m.left_out, "case") + " without an output of every method"),
        Item("Answer sets for each case", f"{m.ratings}, of different people"),
        Item("Answer sets", f"{m.sets} planned, {analysis.sets_of_all} given, {analysis.sets} counted"),
        Item(
            "People",
            f"{m.people} planned, {collected.consented} consented, {collected.finished} finished, "
            f"{collected.withdrawn} withdrew (their answers are deleted)",
        ),
        Item("Pages of a person", ", ".join(f"{counted(n, 'person', 'people')} with {size}" for size, n in sizes)),
        Item("Order of the methods", "rotations of one random order of each case (cyclic Latin square)"),
        Item("Blinding", "random names; same size, format and number of bytes for all pictures of a case; no metadata"),
        Item("Shapes that could tell a method", named(shapes) + " outputs had to be fitted" if shapes else "none"),
        Item("Cases where two outputs are pixel for pixel the same", f"{twins} of {len(m.cases)}"),
        Item("Attention checks", f"{kinds['check']} pages: one output of the case, the others of other cases"),
        Item("Rule of exclusion", f"who fails {m.failed_checks:.0%} or more of the checks; fixed in the plan"),
        Item("Excluded", "; ".join(f"person {e.person}: {e.reason}" for e in collected.excluded) or "nobody"),
        Item("Repeated pages", f"{kinds['repeat']}, in another order; never counted in the rates"),
        Item("Tests fixed in the plan", m.tests),
        Item("Number of people", _power(analysis)),
        Item("Plan frozen", f"{m.date}, tagmoe {m.version}, SHA-256 {m.digest}"),
        Item("Languages", named(dict(sorted(languages.items()))) or "none"),
        Item("Self-declared expertise", named(dict(sorted(expertise.items()))) or "none"),
        Item("Screens", named(dict(sorted(screens.items()))) or "none"),
        Item("Recruiting and payment", OPEN, True),
        Item("Ethics review", OPEN, True),
        Item("Who the people are", OPEN, True),
    ]


def _power(analysis: Analysis) -> str:
    power = analysis.manifest.power
    if power is None:
        return "no power calculation was made; tagmoe study plan --power makes one"
    found = power["detectable"]
    if found is None:
        return f"by simulation no difference in the range shows with a power of {power['power']:.0%}"
    return (
        f"by simulation, a difference of {100 * found:.0f} points shows with a power of {power['power']:.0%} "
        f"at {power['people']} people and {power['cases']} cases"
    )
