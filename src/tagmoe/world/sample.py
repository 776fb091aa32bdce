"""`sample`: an endless stream of cases, each a pure function of (seed, split, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol, get_args

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.tags import TaskDescriptor

from . import scene as world
from .dice import Dice
from .divide import divides, is_seen
from .edits import Edit
from .instructions import phrase
from .render import render, silhouette
from .scene import CELL, SIZE, Scene
from .tasks import TASKS

Split = Literal["train", "test"]
Divide = Literal["content", "stream"]
"""What keeps test from training. content: a hash of pictures and wordings (`tagmoe.world.divide`), for any seed.
stream: other draws alone, as before 2026-11-30; then a test case may by chance be a training case. The packaged model
was trained so."""
_SPLIT_KEY = {"train": 0, "test": 1}
_TASK_NAMES = tuple(TASKS)
# At this distance in the list of tasks no task meets one with its own tags; a test checks that.
_MISTAKEN = 11


@dataclass(frozen=True)
class Sample:
    """One case: pictures, instruction, truth about both.

    Pictures are (64, 64, 3) uint8; `mask` is (64, 64) bool, true where the edit may change pixels. `slots` holds every
    fact that the instruction states (keys and values: `slot_values`). `source_scene` is None where the source is no
    scene (generation, structure maps).
    """

    task: str
    instruction: str
    sources: tuple[np.ndarray, ...]
    target: np.ndarray
    tags: TaskDescriptor
    mask: np.ndarray
    source_scene: Scene | None
    target_scene: Scene
    slots: dict[str, str]
    held_out_paraphrase: bool
    held_out_combination: bool
    seed: int
    index: int
    split: Split
    divide: Divide

    @property
    def is_edit(self) -> bool:
        """Whether the output is an edited source. Else the whole picture is new, and nothing of it could stay."""
        return self.tags.scope[0].endswith("editing")


@dataclass(frozen=True)
class Content:
    """What a case shows and says, before its pictures are drawn. held_out: the wording is one that training lacks."""

    task: str
    edit: Edit
    instruction: str
    held_out: bool


def sample(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    task: str | Sequence[str] | None = None,
    divide: Divide = "content",
) -> Sample:
    """Case number `index` of a split, of the given task (or one of several; by default of any).

    In "test" half of the cases use a held-out paraphrase and about a third may hold held-out combinations. With
    divide="content" no test case of any seed has a scene of a training case of any seed, and no pair of scenes that the
    packaged model was trained on; and no held-out paraphrase of it occurs there. See `tagmoe.world.divide` for what is
    not divided. divide="stream": see `Divide`.
    Raises UsageError for an unknown task, split or divide, or a negative seed or index.
    """
    drawn = content(seed, index, split=split, task=task, divide=divide)
    edit = drawn.edit
    if edit.silhouette:
        sources: tuple[np.ndarray, ...] = (silhouette(edit.target),)
    else:
        sources = () if edit.source is None else (render(edit.source),)
    unseen = edit.target.has_held_out() or (edit.source is not None and edit.source.has_held_out())
    return Sample(
        task=drawn.task,
        instruction=drawn.instruction,
        sources=sources,
        target=render(edit.target),
        tags=TASKS[drawn.task].tags(edit),
        mask=edit_mask(edit.source, edit.target),
        source_scene=edit.source,
        target_scene=edit.target,
        slots={"task": drawn.task, **edit.slots},
        held_out_paraphrase=drawn.held_out,
        held_out_combination=unseen,
        seed=seed,
        index=index,
        split=split,
        divide=divide,
    )


def content(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    task: str | Sequence[str] | None = None,
    divide: Divide = "content",
) -> Content:
    """The content of `sample(...)` with the same arguments; a third of its time."""
    names = _names(task if task is None or isinstance(task, str) else tuple(task))
    if split not in _SPLIT_KEY:
        raise UsageError(f'Unknown split "{split}". Allowed are train and test.')
    if divide not in get_args(Divide):
        raise UsageError(f'Unknown divide "{divide}". Allowed are {" and ".join(get_args(Divide))}.')
    if seed < 0 or index < 0:
        raise UsageError(f"Seed {seed} and index {index} must not be negative.")
    # Of test cases nearly all draws are refused, and the same cases are judged again and again.
    draw = _content if split == "train" else _kept_content
    return draw(seed, index, split, names, divide)


def _content(seed: int, index: int, split: Split, names: tuple[str, ...], divide: Divide) -> Content:
    rng = np.random.Generator(np.random.PCG64([seed, _SPLIT_KEY[split], index]))
    dice = Dice(rng, seek=split == "test" and rng.random() < 0.36)
    name = dice.pick(names)
    while True:
        edit = TASKS[name].make(dice)
        held_out = split == "test" and dice.chance(0.5)
        key = f"{name}.{edit.variant}" if edit.variant else name
        drawn = Content(name, edit, phrase(dice, key, edit.values, held_out=held_out), held_out)
        if divide == "stream" or _is_allowed(drawn, split):
            return drawn


_kept_content = lru_cache(maxsize=4096)(_content)


def _is_allowed(drawn: Content, split: Split) -> bool:
    """Whether the divide by content has a drawn case on the side of the split."""
    case = (drawn.edit.source, drawn.edit.target, drawn.instruction)
    if not divides(*case, test=split == "test", held_out=drawn.held_out):
        return False
    return split == "train" or not is_seen(*case, held_out=drawn.held_out)


class Tagged(Protocol):
    """A case, or what is kept of one: its task and its tags."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def tags(self) -> TaskDescriptor:
        """The tags of the case."""
        ...


def mistaken_tags(case: Tagged) -> TaskDescriptor:
    """The tags that the case would have if its task were another. Every task is always taken for the same other one.

    This is a control for the meaning of tags: they still tell tasks apart, but the tags that tasks share are wrong.
    """
    other = _TASK_NAMES[(_TASK_NAMES.index(case.task) + _MISTAKEN) % len(_TASK_NAMES)]
    return TASKS[other].descriptor("face preservation" in case.tags.preservation)


@lru_cache(maxsize=64)
def _names(task: str | tuple[str, ...] | None) -> tuple[str, ...]:
    names = _TASK_NAMES if task is None else (task,) if isinstance(task, str) else task
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise UsageError(f"Unknown TagWorld task {', '.join(unknown) or '(none)'}. Allowed are: {', '.join(TASKS)}.")
    return names


def edit_mask(source: Scene | None, target: Scene) -> np.ndarray:
    """(64, 64) bool: the cells whose thing changes; everything when the whole picture does."""
    if source is None or replace(source, cells=target.cells) != target:
        return np.ones((SIZE, SIZE), dtype=bool)
    changed = np.array([a != b for a, b in zip(source.cells, target.cells, strict=True)]).reshape(2, 2)
    return changed.repeat(CELL, axis=0).repeat(CELL, axis=1)


def slot_values() -> dict[str, tuple[str, ...]]:
    """Every slot that `Sample.slots` can hold, with its closed set of values. A slot that is not stated is absent."""
    thing = {
        "kind": ("person", "thing"),
        "shape": world.SHAPES,
        "colour": world.COLOURS,
        "texture": world.TEXTURES,
        "size": world.SIZES,
        "place": world.PLACES,
        "skin": world.SKINS,
        "hair": world.HAIRS,
        "hat": world.HATS,
        "glasses": ("sunglasses",),
        "expression": world.EXPRESSIONS,
    }
    of_item = ("shape", "colour", "texture", "size", "place")
    referred = ("kind", "shape", "colour", "place")
    said = {"ref": referred, "ref2": referred, "new": tuple(thing), "a": tuple(thing), "b": of_item, "c": of_item}
    return {
        "task": _TASK_NAMES,
        **{f"{key}.{name}": thing[name] for key, names in said.items() for name in names},
        "old.clothes": ("sunglasses", "hat"),
        "group.kind": ("everything",),
        "group.shape": world.SHAPES,
        "group.colour": world.COLOURS,
        "background.colour": world.BACKGROUNDS,
        "background.pattern": world.PATTERNS,
        "style": (*world.STYLES, "this"),
        "light": world.LIGHTS,
    }
