"""Collect the cases of a study and the outputs of each method, from runs of the evaluation or folders of pictures."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import DataError, ImageError, UsageError
from tagmoe.evaluate.benchmarks.cases import read_prepared
from tagmoe.evaluate.run_folder import FACTS, digest_of_pixels, read_run
from tagmoe.files.json_lines import lines_of
from tagmoe.pictures import load_image
from tagmoe.sentences import cut, reason_of
from tagmoe.study.manifest import MOST_METHODS, LeftOut, Picture, StudyCase

ENDINGS = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
"""Endings of pictures in a plain folder, in the order in which they are looked for."""


class Asked(Part):
    """A case before its outputs are known: a line of a file of cases. source: beside the file."""

    id: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    source: str | None = None
    stratum: str = "all"


@dataclass(frozen=True)
class Outputs:
    """The outputs of a method. find: the file of a case, or a reason why there is none."""

    name: str
    find: Callable[[str], Path | str]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """Where a study is made from. folder: that of the sources. name: what is said of it in the report."""

    folder: Path
    name: str
    cases: tuple[Asked, ...]
    methods: tuple[Outputs, ...]


def read_material(cases: Path, methods: Sequence[str]) -> Material:
    """The cases of a prepared benchmark (a folder) or of a file of JSON lines, and each NAME=FOLDER.

    Raises UsageError for what is neither, for fewer than two methods, more than 12, or one name twice.
    """
    named = [_named(text) for text in methods]
    if not 2 <= len(named) <= MOST_METHODS:
        raise UsageError(
            f"A study compares 2 to {MOST_METHODS} methods, and {len(named)} are given; give their folders."
        )
    if cases.is_dir():
        prepared = read_prepared(cases)
        asked = tuple(
            Asked(
                id=case.id,
                instruction=case.instruction,
                source=case.source or next(iter(case.refs), None),
                stratum=case.task,
            )
            for case in prepared.cases
        )
        keys = {case.id: case.key for case in prepared.cases}
        found = [_run(name, folder, prepared, keys) for name, folder in named]
        manifest = prepared.manifest
        source, about = cases, f"{manifest.benchmark}, cases {manifest.digest[:12]}"
    else:
        asked, source, about = _lines(cases), cases.parent, cases.name
        found = [_plain(name, folder) for name, folder in named]
    names = [one.name for one in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"Two methods are called {twice[0]!r}; give each a name of its own, NAME=FOLDER.")
    return Material(source, about, asked, tuple(found))


def _named(text: str) -> tuple[str | None, Path]:
    name, equals, folder = text.rpartition("=")
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"There is no folder {cut(folder)!r} of outputs; give FOLDER or NAME=FOLDER.")
    if equals and not name:
        raise UsageError(f"The method {cut(text)!r} has no name; give NAME=FOLDER.")
    return name or None, path


def _run(name: str | None, folder: Path, prepared: Any, keys: Mapping[str, str]) -> Outputs:
    if not (folder / FACTS).is_file():
        return _plain(name, folder)
    run = read_run(folder, prepared)

    def find(case: str) -> Path | str:
        answer = run.answers.get(keys[case])
        if answer is None:
            return "was not asked"
        if answer.file is None:
            return answer.status
        return folder / answer.file

    facts = {"key": run.facts.key, "seed": run.facts.seed, **run.facts.editor}
    return Outputs(name or run.name, find, facts)


def _plain(name: str | None, folder: Path) -> Outputs:
    def find(case: str) -> Path | str:
        # A name such as ../x must not lead out of the folder.
        if Path(case).name != case:
            return "has an id that is no file name"
        return next((path for end in ENDINGS if (path := folder / f"{case}{end}").is_file()), "has no picture")

    return Outputs(name or folder.resolve().name, find)


def _lines(file: Path) -> tuple[Asked, ...]:
    try:
        lines = lines_of(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The cases in {str(file)!r} cannot be read ({reason_of(error)}); check the path.") from None
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            case = Asked.model_validate_json(line)
        except ValidationError as error:
            raise UsageError(f"Line {number} of {str(file)!r} is no case: {wrong_field(error, Asked)}.") from None
        if case.id in found:
            raise UsageError(f"The case {cut(case.id)!r} is in {str(file)!r} twice; give each once.")
        found[case.id] = case
    return tuple(found.values())


def collect(
    material: Material, study: Path, count: int | None, seed: int
) -> tuple[tuple[StudyCase, ...], tuple[LeftOut, ...]]:
    """`count` cases of which every method has an output, as many of each stratum as can be, and what was left out.

    A case that a method has no output for is left out for all. study: the folder that paths are relative to.
    Raises UsageError where there are fewer than `count`, and where there is none.
    """
    random = np.random.default_rng(seed)
    strata: dict[str, list[Asked]] = defaultdict(list)
    for place in random.permutation(len(material.cases)):
        case = material.cases[int(place)]
        strata[case.stratum].append(case)
    wanted = len(material.cases) if count is None else count
    found: list[StudyCase] = []
    left_out: list[LeftOut] = []
    # One case of each stratum in turn, so that none is larger than another by more than one while both have cases.
    while len(found) < wanted and any(strata.values()):
        for stratum in sorted(strata):
            while len(found) < wanted and strata[stratum]:
                whole = _with_outputs(strata[stratum].pop(), material, study)
                if isinstance(whole, StudyCase):
                    found.append(whole)
                    break
                left_out.append(whole)
    if count is not None and len(found) < count:
        why = f"; {left_out[0].id!r} is left out because {left_out[0].reason}" if left_out else ""
        raise UsageError(f"Only {len(found)} of {count} cases have an output of every method{why}.")
    if not found:
        why = f": {left_out[0].reason}" if left_out else ""
        raise UsageError(f"No case has an output of every method{why}.")
    order = {case.id: place for place, case in enumerate(material.cases)}
    return tuple(sorted(found, key=lambda case: order[case.id])), tuple(left_out)


def _with_outputs(asked: Asked, material: Material, study: Path) -> StudyCase | LeftOut:
    try:
        source = None if asked.source is None else _picture(material.folder / asked.source, study)
        outputs = []
        for method in material.methods:
            path = method.find(asked.id)
            if isinstance(path, str):
                return LeftOut(id=asked.id, reason=f"{method.name} {path}")
            outputs.append(_picture(path, study))
    except ImageError as error:
        return LeftOut(id=asked.id, reason=str(error).rstrip("."))
    return StudyCase(
        id=asked.id, stratum=asked.stratum, instruction=asked.instruction, source=source, outputs=tuple(outputs)
    )


def _picture(path: Path, study: Path) -> Picture:
    image = load_image(path)
    place = os.path.relpath(path.resolve(), study.resolve())
    return Picture(path=place, pixels=digest_of_pixels(image), width=image.width, height=image.height)


def load_picture(picture: Picture, study: Path) -> Any:
    """A picture of the manifest, upright RGB. Raises DataError where it is gone or another one than was planned."""
    try:
        # The path was made between resolved folders; the study's own need not be there yet.
        image = load_image(Path(os.path.normpath(study.resolve() / picture.path)))
    except ImageError as error:
        raise DataError(f"A picture of the study is gone: {str(error).rstrip('.')}.") from None
    if digest_of_pixels(image) != picture.pixels:
        raise DataError(f"{picture.path!r} is not the picture that was planned; put it back, or plan the study again.")
    return image
