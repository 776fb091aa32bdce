"""PhotoWorld: an endless stream of pairs, each a pure function of the folders, the split, the seed and the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.tags import TaskDescriptor

from .edits import Draw, Edit
from .roots import Cutout, Roots, read_roots
from .tasks import INVERSE_TAGS, TASKS

Split = Literal["train", "test"]
SMALLEST_SIDE, LARGEST_SIDE = 32, 1024
HELD_OUT = 0.2
"""Share of the cut-outs and of the grounds, look-alikes counted once, that training never sees."""
_DRAWS = 64


@dataclass(frozen=True, eq=False)
class Inverse:
    """The edit back: its task, instruction, pictures and tags. sources and roles as in `Sample`."""

    task: str
    instruction: str
    sources: tuple[np.ndarray, ...]
    roles: tuple[str, ...]
    target: np.ndarray
    tags: TaskDescriptor


@dataclass(frozen=True, eq=False)
class Sample:
    """One pair: pictures, instruction, truth about both.

    Pictures are (S, S, 3) uint8. roles: of each source, "source", "reference" or "control". mask: (S, S) bool, true
    where the edit may change pixels of `before`. before: the picture that the target is compared with; the structure
    map where there is no other. kept: (S, S) bool, pixels within the mask that show things which stay, where all else
    changes; None elsewhere. roots: digests of the files that the pair is made of. inverse: the edit back, None
    where many pictures would fit it.
    """

    task: str
    variant: str
    instruction: str
    sources: tuple[np.ndarray, ...]
    roles: tuple[str, ...]
    target: np.ndarray
    before: np.ndarray
    mask: np.ndarray
    tags: TaskDescriptor
    roots: tuple[str, ...]
    seed: int
    index: int
    split: Split
    held_out_wording: bool
    kept: np.ndarray | None = field(default=None, repr=False)
    inverse: Inverse | None = field(default=None, repr=False)


class PhotoWorld:
    """The world of two folders: photographic grounds, and cut-outs with alpha and captions.

    size: side of the pictures in pixels, a multiple of 8. held_out: see `HELD_OUT`; 0: there is no split "test".
    All pictures are read once, when the world is made; a cut-out then takes at most 4 S^2 bytes, a ground 9.4 S^2.
    Raises UsageError for a size out of range, and the errors of `read_roots`.
    """

    def __init__(
        self,
        grounds: Path,
        cutouts: Path,
        *,
        size: int = 128,
        held_out: float = HELD_OUT,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not SMALLEST_SIDE <= size <= LARGEST_SIDE or size % 8:
            raise UsageError(f"The size is {size}; give a multiple of 8 from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels.")
        if not 0 <= held_out <= 0.5:
            raise UsageError(f"The held-out share is {held_out:g}; give a number from 0 to 0.5.")
        self.size = size
        train, test = read_roots(grounds, cutouts, size, held_out, progress)
        self.roots: dict[Split, Roots] = {"train": train, **({"test": test} if held_out else {})}  # type: ignore[dict-item]

    def sample(
        self, seed: int, index: int, *, split: Split = "train", task: str | Sequence[str] | None = None
    ) -> Sample:
        """Pair number `index` of a split, of the given task (or one of several; by default of any).

        In "test" objects and grounds are held-out ones, and half of the pairs use a held-out wording. Raises UsageError
        for an unknown task or split, or a negative seed or index.
        """
        names = task_names(task)
        if split not in self.roots:
            raise UsageError(f'There is no split "{split}" here; there is {" and ".join(self.roots)}.')
        if seed < 0 or index < 0:
            raise UsageError(f"Seed {seed} and index {index} must not be negative.")
        rng = np.random.Generator(np.random.PCG64([seed, get_args(Split).index(split), index]))
        name = names[int(rng.random() * len(names))]
        held_out = split == "test" and rng.random() < 0.5
        edit: Edit | None = None
        for _ in range(_DRAWS):
            edit = TASKS[name].make(Draw(rng, self.roots[split], self.size, held_out))
            if edit is not None:
                break
        if edit is None:
            raise UsageError(
                f"The pictures give no pair of the task {name!r} in {_DRAWS} draws: the edit would change too little "
                "to be seen; add other pictures, or leave the task out."
            )
        return self._sample(name, edit, seed, index, split, held_out)

    def _sample(self, name: str, edit: Edit, seed: int, index: int, split: Split, held_out: bool) -> Sample:
        inverse = None
        if edit.back is not None:
            task, text, sources, roles = edit.back
            tags = INVERSE_TAGS.get((name, task), TASKS[task].tags if task in TASKS else None)
            assert tags is not None
            inverse = Inverse(task, text, sources, roles, edit.before, tags)
        return Sample(
            task=name,
            variant=edit.variant,
            instruction=edit.instruction,
            sources=edit.sources,
            roles=edit.roles,
            target=edit.target,
            before=edit.before,
            mask=edit.mask,
            tags=TASKS[name].tags,
            roots=edit.roots,
            seed=seed,
            index=index,
            split=split,
            held_out_wording=held_out,
            kept=edit.kept,
            inverse=inverse,
        )

    def cutouts(self, split: Split) -> tuple[Cutout, ...]:
        """The cut-outs of a split."""
        return self.roots[split].cutouts


def task_names(task: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of tasks: all, one, or several. Raises UsageError for an unknown one."""
    names = tuple(TASKS) if task is None else (task,) if isinstance(task, str) else tuple(task)
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise UsageError(f"Unknown PhotoWorld task {', '.join(unknown) or '(none)'}. Allowed are: {', '.join(TASKS)}.")
    return names
