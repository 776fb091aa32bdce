"""What a command of `edit` or `generate` makes: which pictures give which results, with which seeds and names."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tagmoe.cli.output import FORMATS
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.cli.draw import DrawOptions

STREAM = Path("-")
"""Stdin as a picture, stdout as a result."""
READ = (*FORMATS, ".gif", ".avif")
"""Endings of the pictures that are taken from a folder."""
MOST = 10_000
"""Results of one picture."""
_LARGEST = 2**63


@dataclass(frozen=True)
class Asked:
    """What is to be drawn. pictures: none to generate. each: a result for every picture. mask: where to edit."""

    pictures: tuple[Path, ...]
    prompt: str | None
    size: str
    each: bool
    mask: Path | None
    options: DrawOptions


@dataclass(frozen=True)
class Job:
    """The sources of results that differ by their seeds only; the file of each."""

    pictures: tuple[Path, ...]
    results: tuple[tuple[int, Path], ...]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return ", ".join(repr(str(picture)) for picture in self.pictures) or "the prompt"


def choose_seeds(text: str | None, count: int | None) -> list[int]:
    """The seeds of "7", "0-7", "1,5,9" or a mixture; `count` from a single one on, or new ones.

    Raises UsageError for anything else, a seed that is given twice, and another count than that of the list.
    """
    if text is None:
        first = [secrets.randbelow(2**31) for _ in range(count or 1)]
        return first if len(set(first)) == len(first) else choose_seeds(None, count)
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part, flags=re.ASCII)
        if found is None:
            raise UsageError(f"--seed is {text!r}; give a whole number of 0 or more, a range (0-7) or a list (1,5,9).")
        start, end = int(found[1]), int(found[2] or found[1])
        if end < start or end >= _LARGEST or end - start >= MOST:
            raise UsageError(f"--seed holds {part.strip()!r}; a range goes up, to 2^63 - 1, over {MOST} seeds at most.")
        seeds += range(start, end + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seed is {text!r}, which holds a seed twice; its two results would be the same.")
    if count is not None and len(seeds) == 1:
        return choose_seeds(f"{seeds[0]}-{seeds[0] + count - 1}", None)
    if count not in (None, len(seeds)):
        raise UsageError(f"--num-images is {count} and --seed holds {len(seeds)} seeds; give one of them.")
    return seeds


def picture_files(pictures: Sequence[Path]) -> tuple[list[Path], bool]:
    """The pictures, with the files in place of a folder in the order of their names, and whether there was one.

    A folder's own folders and hidden files are left out. Raises UsageError for a folder without pictures.
    """
    found: list[Path] = []
    for picture in pictures:
        if not picture.is_dir():
            found.append(picture)
            continue
        inside = sorted(file for file in picture.iterdir() if file.suffix.lower() in READ and file.name[0] != ".")
        if not inside:
            raise UsageError(f"The folder {str(picture)!r} holds no picture ({', '.join(READ)}).")
        found += inside
    return found, len(found) != len(pictures) or any(picture.is_dir() for picture in pictures)


def plan_jobs(asked: Asked, out: Path, seeds: Sequence[int]) -> list[Job]:
    """One job for every picture with `each` or a folder among them, else one of them all, with a file for each seed.

    Raises UsageError where two results would have one name, one would replace a source, or stdout would get several.
    """
    pictures, has_folder = picture_files(asked.pictures)
    if pictures.count(STREAM) > 1:
        raise UsageError("The picture - is given twice, but stdin holds one; give the other as a file.")
    sets = [(picture,) for picture in pictures] if asked.each or has_folder else [tuple(pictures)]
    several = len(sets) * len(seeds) > 1
    if out == STREAM:
        if several:
            raise UsageError(f"-o - takes one picture, and this makes {len(sets) * len(seeds)}; give a folder.")
        return [Job(sets[0], ((seeds[0], out),))]
    into_folder = out.is_dir() or (several and out.suffix.lower() not in READ)
    if len(sets) > 1 and not into_folder:
        raise UsageError(f"-o is {str(out)!r}, one file, for {len(sets)} pictures; give a folder.")
    jobs = [
        Job(one, tuple((seed, _file(one, out, seed, into_folder, len(seeds) > 1)) for seed in seeds)) for one in sets
    ]
    if into_folder:
        _check_names(jobs)
    return jobs


def _file(pictures: Sequence[Path], out: Path, seed: int, into_folder: bool, with_seed: bool) -> Path:
    if not into_folder:
        return out.with_name(f"{out.stem}-seed{seed}{out.suffix}") if with_seed else out
    if not pictures:
        return out / f"seed{seed}.png"
    first = pictures[0]
    name = "stdin" if first == STREAM else Path(str(first).removeprefix("example:")).name
    stem, ending = Path(name).stem, Path(name).suffix
    return out / f"{stem}{f'-seed{seed}' if with_seed else ''}{ending if ending.lower() in FORMATS else '.png'}"


def _check_names(jobs: Sequence[Job]) -> None:
    """Refuse two results of one name, and one that would take the place of a picture to be read."""
    sources = {picture.resolve() for job in jobs for picture in job.pictures}
    taken: dict[Path, Job] = {}
    for job in jobs:
        for _, file in job.results:
            if file.resolve() in sources:
                raise UsageError(f"The result {str(file)!r} would replace a source; give another folder with -o.")
            if file in taken:
                raise UsageError(
                    f"The results of {taken[file].name} and {job.name} would both be {str(file)!r}; edit them into two "
                    "folders."
                )
            taken[file] = job
