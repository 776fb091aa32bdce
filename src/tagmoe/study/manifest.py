"""The frozen plan of a study: cases, methods, wording, what each person sees in which order, rules and tests.

STUDY/manifest.json   `Manifest`; its digest is known before there are answers, and every later file names it
STUDY/texts/LANG.yaml the wording that was frozen, to be copied and edited for another plan
STUDY/public/         what a client may get: page, texts, pictures under random names (`tagmoe.study.build`)
STUDY/key.json        which case and method each random name stands for
STUDY/links.txt       one link a person
STUDY/answers.db      the answers (`tagmoe.study.store`); STUDY/simulated.db those of simulated people
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tagmoe.config.part import Part
from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.benchmarks.cases import digest_of, read_part
from tagmoe.study.texts_file import Texts

MANIFEST, TEXTS, PUBLIC, KEY, LINKS = "manifest.json", "texts", "public", "key.json", "links.txt"
ANSWERS, SIMULATED = "answers.db", "simulated.db"
MOST_METHODS = 12
"""More pictures cannot be compared on one page."""
FAILED_CHECKS = 0.5
"""Who fails at least this share of the attention checks is excluded."""

Kind = Literal["trial", "check", "repeat"]
Digest = Annotated[str, Field(pattern=r"[0-9a-f]{64}")]


class Picture(Part):
    """A picture of the study. path: relative to the folder of the study. pixels: SHA-256 of size and pixels."""

    path: str
    pixels: Digest
    width: int
    height: int


class Method(Part):
    """What is compared. facts: what a run says of its editor; empty for a plain folder."""

    name: str
    facts: dict[str, Any] = Field(default_factory=dict)


class StudyCase(Part):
    """An instruction, its source, and the output of each method, in the order of the methods."""

    id: str
    stratum: str
    instruction: str
    source: Picture | None = None
    outputs: tuple[Picture, ...]

    @cached_property
    def twins(self) -> int:
        """Outputs that are pixel for pixel that of another method: a choice between them is chance."""
        return len(self.outputs) - len({picture.pixels for picture in self.outputs})


class LeftOut(Part):
    """A case that no person sees, and why."""

    id: str
    reason: str


class Trial(Part):
    """One page of one person. order: at each position, the number of the method.

    of a check: from which case the output at each position comes; only one is of the case itself. of a repeat: the
    number of the page that it repeats.
    """

    kind: Kind = "trial"
    case: int
    order: tuple[int, ...]
    cases: tuple[int, ...] = ()
    repeats: int | None = None

    def shown(self) -> list[tuple[int, int]]:
        """(case, method) at each position."""
        return list(zip(self.cases or (self.case,) * len(self.order), self.order, strict=True))

    @property
    def right(self) -> int:
        """The position of the output that belongs to the case of a check."""
        return self.cases.index(self.case)


class Manifest(Part):
    """All that is decided before the first answer.

    ours: the method that the others are tested against. ratings: answer sets of each case. sheets: the pages of each
    person. power: what `--power` found.
    """

    format: Literal[1] = 1
    title: str
    version: str
    date: str
    seed: int
    methods: tuple[Method, ...]
    ours: str
    languages: dict[str, Texts]
    cases: tuple[StudyCase, ...]
    left_out: tuple[LeftOut, ...] = ()
    people: int
    ratings: int
    check_every: int
    repeat_every: int
    failed_checks: float = FAILED_CHECKS
    interval: Literal["two-way"] = "two-way"
    tests: str = ""
    made_from: str
    power: dict[str, Any] | None = None
    sheets: tuple[tuple[Trial, ...], ...]
    digest: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        """Numbers point to what is there, so that a damaged file is found when it is read."""
        counts = range(len(self.methods))
        for sheet in self.sheets:
            for trial in sheet:
                places = {trial.case, *trial.cases}
                if sorted(trial.order) != list(counts) or not places <= set(range(len(self.cases))):
                    raise ValueError("a page names a case or a method that is not there")
        if any(len(case.outputs) != len(self.methods) for case in self.cases) or self.ours not in self.names:
            raise ValueError("a case has not one output of each method")
        return self

    @property
    def names(self) -> list[str]:
        """The names of the methods."""
        return [method.name for method in self.methods]

    @property
    def criteria(self) -> list[str]:
        """The ids of the criteria, in the order in which they are asked."""
        return list(next(iter(self.languages.values())).criteria)

    @property
    def sets(self) -> int:
        """Answer sets that are planned, without checks and repeats."""
        return sum(trial.kind == "trial" for sheet in self.sheets for trial in sheet)

    def computed_digest(self) -> str:
        """SHA-256 of all but the digest itself."""
        return digest_of(self.model_dump(mode="json", exclude={"digest"}))

    def frozen(self) -> Manifest:
        """The manifest with its digest."""
        return self.model_copy(update={"digest": self.computed_digest()})


def read_manifest(study: Path) -> Manifest:
    """The manifest of a study. Raises UsageError where there is none, DataError for one that was changed."""
    file = study / MANIFEST
    if not file.is_file():
        raise UsageError(f"{str(study)!r} is no study: it has no {MANIFEST}; run tagmoe study plan.")
    manifest = read_part(file, Manifest, "plan the study again")
    if manifest.computed_digest() != manifest.digest:
        raise DataError(
            f"{str(file)!r} was changed after it was frozen (its digest is another one); plan the study again."
        )
    return manifest
