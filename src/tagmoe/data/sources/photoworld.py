"""Source of PhotoWorld pairs, which are composed of a user's cut-outs and grounds, with their exact tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.record import (
    VALIDATION_SHARE,
    Operation,
    Picture,
    Record,
    Role,
    TagProvenance,
    record_id,
    split_of,
)
from tagmoe.errors import UsageError
from tagmoe.photoworld import PhotoWorld, Sample, task_names
from tagmoe.photoworld.sample import Split
from tagmoe.pictures import png_of
from tagmoe.sentences import counted

DATASET = "photoworld"
EVERY = round(1 / VALIDATION_SHARE)
"""Of a store to train on, every so many-th pair is made of held-out roots, and is in its split "validation"."""


class PhotoWorldSource:
    """Pairs 0 to count - 1 of a PhotoWorld, each with its inverse edit where there is one.

    folders: of grounds and of cut-outs, as the user named them. split: "train", which has held-out pairs as `EVERY`
    says, or "test", which has nothing else. Raises UsageError for an unknown task, a split that the world lacks, and
    numbers out of range.
    """

    name = DATASET

    def __init__(
        self,
        world: PhotoWorld,
        folders: tuple[Path, Path],
        pairs: int,
        *,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
        split: Split = "train",
        inverses: bool = True,
        licence: str = "LicenseRef-unstated",
    ) -> None:
        if pairs < 1 or seed < 0:
            raise UsageError(
                f"PhotoWorld cannot give {counted(pairs, 'pair')} of seed {seed}; give 1 or more, and a seed from 0."
            )
        if split not in world.roots:
            raise UsageError("There are no held-out pairs without held-out roots; leave --split or --held-out out.")
        self.licence = Licence.named(licence)
        self._world, self._folders, self._pairs, self._seed, self._split = world, folders, pairs, seed, split
        self._tasks, self._inverses = None if tasks is None else task_names(tuple(tasks)), inverses
        digests = sorted(
            f"{name} {digest}"
            for name, part in world.roots.items()
            for digest in [*(one.digest for one in part.cutouts), *(one.digest for one in part.grounds)]
        )
        self._content = hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def identity(self) -> Mapping[str, Any]:
        """JSON values for the folders and the options; another number of pairs is another source."""
        return {
            "kind": DATASET,
            "folders": [str(folder.resolve()) for folder in self._folders],
            "seed": self._seed,
            "size": self._world.size,
            "tasks": self._tasks,
            "split": self._split,
            "inverses": self._inverses,
            "count": self._pairs,
            "licence": self.licence.name,
        }

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that identify the pairs: the options, and a digest of the roots by split."""
        return {**self.identity(), "folders": None, "content": self._content}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row for each pair: the record of the edit, and that of its inverse."""
        for number in range(start, self._pairs):
            yield Row(number + 1, self._records(number), origin=f"{self._split}-{self._seed}-{number}")

    def __len__(self) -> int:
        return self._pairs

    def _records(self, number: int) -> tuple[Record, ...]:
        apart = self._split == "train" and "test" in self._world.roots and number % EVERY == EVERY - 1
        drawn = self._world.sample(self._seed, number, split="test" if apart else self._split, task=self._tasks)
        key = f"{self._content[:32]}-{self._world.size}-{drawn.split}-{self._seed}-{number}"
        view = "" if self._tasks is None else ",".join(self._tasks)
        common: dict[str, Any] = {
            "dataset": DATASET,
            "licence": self.licence.name,
            "origin": f"{drawn.split}-{self._seed}-{number}",
            "root": root_of(drawn),
            "tag_provenance": TagProvenance(annotator="oracle"),
        }
        own = record_id(DATASET, key, view, "compose")
        forward = Record(
            id=own,
            target=_picture(drawn.target),
            instruction=drawn.instruction,
            images=_images(drawn.sources, drawn.roles, drawn.mask),
            native_task=drawn.task,
            operation="compose",
            tags=drawn.tags.indices,
            **common,
        )
        if drawn.inverse is None or not self._inverses:
            return (forward,)
        back = drawn.inverse
        kind: Operation = "inverse"
        return forward, Record(
            id=record_id(DATASET, key, view, kind),
            target=_picture(back.target),
            instruction=back.instruction,
            images=_images(back.sources, back.roles, drawn.mask),
            native_task=back.task,
            parent=own,
            operation=kind,
            tags=back.tags.indices,
            **common,
        )


def root_of(drawn: Sample) -> str:
    """The digest that stands for all roots of a pair. It is such that the pair's split is that of its roots.

    A store divides records by one digest, but a pair has several roots, which other pairs share. So a number is
    appended to their digests: the first with which the digest falls on the right side.
    """
    wanted = "validation" if drawn.split == "test" else "train"
    roots = "\n".join(sorted(drawn.roots))
    digests = (hashlib.sha256(f"{roots}\n{number}".encode()).hexdigest() for number in count())
    return next(digest for digest in digests if split_of(digest) == wanted)


def _images(sources: Sequence[np.ndarray], roles: Sequence[str], mask: np.ndarray) -> tuple[Picture, ...]:
    given = [_picture(source, role) for source, role in zip(sources, roles, strict=True)]  # type: ignore[arg-type]
    return (*given, _picture(mask.astype(np.uint8) * 255, "mask"))


def _picture(array: np.ndarray, role: Role = "source") -> Picture:
    """A lossless PNG of (S, S[, 3]) uint8."""
    height, width = array.shape[:2]
    return Picture(png_of(Image.fromarray(array)), width, height, role)
