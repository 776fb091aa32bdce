"""Read all results of a folder, and refuse them when they cannot be compared with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmoe.errors import ResultError, UsageError
from tagmoe.laboratory.ablation.results import BASE, NAME, Cases, Result, read_result

RUN = re.compile(r"seed-(\d+)")
FLAT = re.compile(r"(.+)-seed-(\d+)\.json")
QUANTITIES = ("success", "unchanged", "subject", "face", "style")


@dataclass(frozen=True)
class Collection:
    """Results by arm and seed, with the same cases, recipe and versions. missing: wanted arms without a result."""

    arms: Mapping[str, Mapping[int, Result]]
    missing: tuple[str, ...] = ()

    @property
    def first(self) -> Result:
        """Any one result, to read what all of them share."""
        return next(self.results())

    @property
    def cases(self) -> Cases:
        """The cases of every result."""
        return self.first.cases

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all arms together."""
        return tuple(sorted({seed for runs in self.arms.values() for seed in runs}))

    def results(self) -> Iterator[Result]:
        """Every result, by arm and seed."""
        for runs in self.arms.values():
            yield from runs.values()

    def common_seeds(self, first: str, second: str) -> tuple[int, ...]:
        """The seeds that both arms have. Only these can be paired."""
        return tuple(sorted(self.arms[first].keys() & self.arms[second].keys()))

    def missing_seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds that other arms have and this one lacks."""
        return tuple(seed for seed in self.seeds if seed not in self.arms[arm])

    def verdicts(self, arm: str, quantity: str, seeds: Sequence[int]) -> np.ndarray:
        """The oracle's verdicts by seed and case, (S, C) float; NaN where the quantity does not apply to a case."""
        rows = [getattr(self.arms[arm][seed].verdicts, quantity) for seed in seeds]
        return np.array([[np.nan if value is None else float(value) for value in row] for row in rows])


def read_collection(
    folder: Path,
    *,
    known: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Collection:
    """Read FOLDER/ARM/seed-S/result.json and FOLDER/ARM-seed-S.json of `arms` and `seeds`, by default of all.

    known: the names of all arms, in the order to show. Those without a result are `missing`.

    Raises UsageError when there are no results, and for an unknown name in `arms`. Raises ResultError for a
    half-finished run, an unknown arm, two results of one arm and seed, and results of different recipes, versions or
    cases.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r} with results; run arms first, or give another folder.")
    found: dict[str, dict[int, tuple[Path, Result]]] = {}
    paths = list(_paths(folder))
    order = list(known) if known is not None else sorted({arm for _, arm, _ in paths})
    for arm in arms or ():
        if arm not in order:
            raise UsageError(f"There is no arm {arm!r}; the arms are {', '.join(order) or 'none'}.")
    for path, arm, seed in paths:
        if known is not None and arm not in known:
            raise ResultError(
                f"The result {str(path)!r} is of an unknown arm {arm!r}; the arms are {', '.join(known)}: move it away."
            )
        if (arms is not None and arm not in arms) or (seeds is not None and seed not in seeds):
            continue
        if not path.is_file():
            raise ResultError(
                f"The run {str(path.parent)!r} is half-finished: it has no {NAME}; finish it, or choose others with "
                "--arms and --seeds."
            )
        result = read_result(path)
        if (result.arm, result.seed) != (arm, seed):
            raise ResultError(
                f"The result {str(path)!r} is of arm {result.arm!r} at seed {result.seed}, not of the arm and seed in "
                "its name; put it where it belongs."
            )
        if seed in found.setdefault(arm, {}):
            other = found[arm][seed][0]
            raise ResultError(
                f"Arm {arm!r} has two results at seed {seed}, {str(other)!r} and {str(path)!r}; remove one."
            )
        found[arm][seed] = (path, result)
    if not found:
        raise UsageError(
            f"The folder {str(folder)!r} holds no results of the arms and seeds asked for (ARM/seed-S/{NAME} or "
            "ARM-seed-S.json); run them first."
        )
    _check_together([item for runs in found.values() for item in runs.values()])
    wanted = [arm for arm in order if arms is None or arm in arms]
    return Collection(
        arms={arm: {seed: found[arm][seed][1] for seed in sorted(found[arm])} for arm in wanted if arm in found},
        missing=tuple(arm for arm in wanted if arm not in found),
    )


def _paths(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """(path, arm, seed) of every result, and of the results that half-finished runs should have.

    Dense bases have no result. A run that still waits in the queue counts as missing, not as half-finished.
    """
    for item in sorted(folder.iterdir()):
        flat = FLAT.fullmatch(item.name)
        if flat is not None and item.is_file():
            yield item, flat[1], int(flat[2])
        elif item.is_dir() and item.name != BASE:
            for run in sorted(item.iterdir()):
                nested = RUN.fullmatch(run.name)
                if nested is not None and run.is_dir() and not _waits(run):
                    yield run / NAME, item.name, int(nested[1])


def _waits(run: Path) -> bool:
    """Whether a run is planned but has not begun."""
    return [path.name for path in run.iterdir()] == ["job.json"]


def _check_together(items: Sequence[tuple[Path, Result]]) -> None:
    """Refuse results that cannot be compared. The error names two files and what differs."""
    (first_path, first), *others = items
    _check_lengths(first_path, first)
    for path, result in others:
        _check_lengths(path, result)
        pair = f"{str(first_path)!r} and {str(path)!r}"
        for name in sorted(first.versions.keys() | result.versions.keys()):
            one, two = (_version(name, r.versions.get(name, "none")) for r in (first, result))
            if one != two:
                raise ResultError(
                    f"The results {pair} were made with {name} {one} and {two}; run them again with one version, or "
                    "keep them in separate folders."
                )
        if result.common != first.common:
            raise ResultError(
                f"The results {pair} differ in what all arms must share (recipe, base or cases); run them again with "
                "one recipe, or keep them in separate folders."
            )
        same = result.cases == first.cases and result.flow.timesteps == first.flow.timesteps
        if not same or result.flow.samples != first.flow.samples or _asked(result) != _asked(first):
            raise ResultError(f"The results {pair} were scored on different cases; score one of them again.")


def _check_lengths(path: Path, result: Result) -> None:
    count = len(result.cases.tasks)
    lists = [result.cases.held_out_paraphrase, result.cases.held_out_combination]
    lists += [getattr(result.verdicts, name) for name in QUANTITIES]
    if count == 0 or any(len(values) != count for values in lists):
        raise ResultError(
            f"The result {str(path)!r} does not have one verdict for each of {count} cases; run it again."
        )
    if not result.flow.loss or len(result.flow.loss) != len(result.flow.timesteps):
        raise ResultError(f"The result {str(path)!r} does not have one flow loss a timestep; run it again.")


def _asked(result: Result) -> list[list[bool]]:
    """Which quantities apply to which cases. This depends only on the cases, so results of equal cases agree in it."""
    return [[value is None for value in getattr(result.verdicts, name)] for name in QUANTITIES]


def _version(name: str, version: str) -> str:
    # Python's patch level changes no result.
    return ".".join(version.split(".")[:2]) if name == "python" else version
