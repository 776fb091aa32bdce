"""Plan a study: choose the cases, allot them, and freeze all that is decided before the first answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from tagmoe import __version__
from tagmoe.errors import UsageError
from tagmoe.files.atomic import write_whole
from tagmoe.study.allocation import allocate
from tagmoe.study.collect import collect, read_material
from tagmoe.study.manifest import MANIFEST, TEXTS, Manifest, Method
from tagmoe.study.texts_file import read_languages

TESTS = (
    "Each other method against {ours}: paired over cases by random signs (two-sided), Holm over {count} tests; rates "
    "with two-way intervals (cases and people) at 95 %."
)


@dataclass(frozen=True)
class Design:
    """What the people who run a study choose. count: cases, by default all that every method has an output for.

    ratings: answer sets of each case, by default as many as methods: then each stands as often at every position.
    """

    people: int = 65
    ratings: int | None = None
    count: int | None = None
    check_every: int = 10
    repeat_every: int = 10
    seed: int = 0


def plan(
    cases: Path,
    methods: Sequence[str],
    study: Path,
    design: Design,
    *,
    languages: Sequence[str] = ("en",),
    ours: str | None = None,
) -> Manifest:
    """The frozen manifest of the user study (paper sec. 4.6) that will lie in the folder `study`; nothing is written.

    cases, methods: as `tagmoe.study.collect.read_material` takes them. ours: by default the first method. Raises
    UsageError.
    """
    texts = read_languages(list(languages))
    material = read_material(cases, methods)
    names = [method.name for method in material.methods]
    mine = ours or names[0]
    if mine not in names:
        raise UsageError(f"--ours is {mine!r}; give one of {', '.join(names)}.")
    ratings = design.ratings or min(len(names), design.people)
    found, left_out = collect(material, study, design.count, design.seed)
    if len(found) * ratings < design.people:
        raise UsageError(
            f"{design.people} people are too many for {len(found)} cases with {ratings} ratings each: some would see "
            "nothing; ask fewer people, or more ratings."
        )
    sheets = allocate(
        len(found),
        len(names),
        design.people,
        ratings,
        check_every=design.check_every,
        repeat_every=design.repeat_every,
        seed=design.seed,
    )
    criteria = next(iter(texts.values())).criteria
    return Manifest(
        title=next(iter(texts.values())).title,
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seed=design.seed,
        methods=tuple(Method(name=method.name, facts=dict(method.facts)) for method in material.methods),
        ours=mine,
        languages=texts,
        cases=found,
        left_out=left_out,
        people=design.people,
        ratings=ratings,
        check_every=design.check_every,
        repeat_every=design.repeat_every,
        tests=TESTS.format(ours=mine, count=(len(names) - 1) * len(criteria)),
        made_from=material.name,
        sheets=sheets,
    )


def write_plan(manifest: Manifest, folder: Path) -> Manifest:
    """Freeze the manifest, and write it and its texts into an existing folder; returns it with its digest."""
    frozen = manifest.frozen()
    write_whole(folder / MANIFEST, frozen.model_dump_json(indent=1) + "\n")
    (folder / TEXTS).mkdir()
    for language, texts in manifest.languages.items():
        text = yaml.safe_dump(texts.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=120)
        write_whole(folder / TEXTS / f"{language}.yaml", text)
    return frozen
