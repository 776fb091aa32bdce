"""What training needs of a TagWorld sample beside its encoded pictures, so that a sample is drawn only once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tagmoe.tags import TaskDescriptor
from tagmoe.world import SIZE, Sample


@dataclass(frozen=True)
class Facts:
    """What training needs of a sample beside its pictures. edited: by token, whether the edit may change it."""

    index: int
    task: str
    instruction: str
    tag_names: tuple[str, ...]
    edited: tuple[bool, ...]

    @classmethod
    def of(cls, case: Sample, grid: int) -> Facts:
        """The facts of a sample whose picture has grid x grid tokens."""
        side = SIZE // grid
        edited = case.mask.reshape(grid, side, grid, side).any(axis=(1, 3)).flatten()
        return cls(case.index, case.task, case.instruction, case.tags.tags, tuple(edited.tolist()))

    @classmethod
    def read(cls, row: dict[str, Any]) -> Facts:
        """The inverse of `dataclasses.asdict`, after JSON."""
        return cls(**row | {"tag_names": tuple(row["tag_names"]), "edited": tuple(row["edited"])})

    @property
    def tags(self) -> TaskDescriptor:
        """The tags of the sample's task."""
        return _descriptor(self.tag_names)


@lru_cache(maxsize=1024)
def _descriptor(names: tuple[str, ...]) -> TaskDescriptor:
    return TaskDescriptor.from_tags(names)
