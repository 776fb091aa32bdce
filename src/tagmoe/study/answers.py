"""Answers joined with the plan: which method each person chose, who is excluded and why."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmoe.errors import ResultError
from tagmoe.study.manifest import Manifest, Trial
from tagmoe.study.store import Kept, PageAnswer, read_answers


@dataclass(frozen=True)
class Answered:
    """A page that was answered. methods: the chosen method for each criterion."""

    person: int
    trial: Trial
    given: PageAnswer
    methods: dict[str, int]
    at: str


@dataclass(frozen=True)
class Excluded:
    """A person whose answers are left out of the main result."""

    person: int
    reason: str


@dataclass(frozen=True)
class Table:
    """The answers that count: pages of the kind "trial", one row each. choice_NQ: methods, position_NQ: from 0."""

    person_N: np.ndarray
    case_N: np.ndarray
    choice_NQ: np.ndarray
    position_NQ: np.ndarray

    def __len__(self) -> int:
        return len(self.person_N)


@dataclass(frozen=True)
class Collected:
    """All answers of a study. failed: for each person with checks, (failed, seen)."""

    kept: Kept
    pages: tuple[Answered, ...]
    excluded: tuple[Excluded, ...]
    failed: dict[int, tuple[int, int]]
    withdrawn: int
    consented: int
    finished: int

    def table(self, manifest: Manifest, *, everybody: bool = False) -> Table:
        """The answers that count. everybody: also those of people who are excluded."""
        out = set() if everybody else {one.person for one in self.excluded}
        rows = [page for page in self.pages if page.trial.kind == "trial" and page.person not in out]
        criteria = manifest.criteria

        def table_of(values: list[list[int]]) -> np.ndarray:
            return np.array(values, dtype=np.int64).reshape(len(rows), len(criteria))

        return Table(
            np.array([page.person for page in rows], dtype=np.int64),
            np.array([page.trial.case for page in rows], dtype=np.int64),
            table_of([[page.methods[name] for name in criteria] for page in rows]),
            table_of([[page.given.choices[name] for name in criteria] for page in rows]),
        )


def collect_answers(manifest: Manifest, path: Path) -> Collected:
    """Read the answers of a study. Raises ResultError where they are of another plan, or of real and simulated people.

    A check is failed where any criterion's choice is an output of another case. The rule of exclusion is in the plan.
    """
    kept = read_answers(path)
    if kept.digest != manifest.digest:
        raise ResultError(
            f"The answers in {str(path)!r} belong to another plan ({kept.digest[:12]}, not {manifest.digest[:12]})."
        )
    if any(bool(person["simulated"]) != kept.simulated for person in kept.people.values()):
        raise ResultError(f"{str(path)!r} mixes real and simulated people, so nothing can be said of it.")
    pages = []
    for person, given, at in kept.pages:
        if person not in kept.people or person >= len(manifest.sheets) or given.number >= len(manifest.sheets[person]):
            raise ResultError(f"{str(path)!r} holds an answer of person {person} that no sheet asks for.")
        trial = manifest.sheets[person][given.number]
        methods = {name: trial.order[position] for name, position in given.choices.items()}
        pages.append(Answered(person, trial, given, methods, at))
    checks: dict[int, list[bool]] = defaultdict(list)
    for page in pages:
        if page.trial.kind == "check":
            checks[page.person].append(any(place != page.trial.right for place in page.given.choices.values()))
    failed = {person: (sum(wrong), len(wrong)) for person, wrong in sorted(checks.items())}
    excluded = tuple(
        Excluded(person, f"failed {wrong} of {seen} attention checks")
        for person, (wrong, seen) in failed.items()
        if wrong >= manifest.failed_checks * seen
    )
    count: dict[int, int] = defaultdict(int)
    for page in pages:
        count[page.person] += 1
    consented = [number for number, person in kept.people.items() if person["consented"] is not None]
    return Collected(
        kept,
        tuple(pages),
        excluded,
        failed,
        withdrawn=sum(person["withdrawn"] is not None for person in kept.people.values()),
        consented=len(consented),
        finished=sum(count[number] == len(manifest.sheets[number]) for number in consented),
    )
