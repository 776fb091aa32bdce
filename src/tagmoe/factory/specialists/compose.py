"""`compose`: cut-outs stand on the photograph, with its light and a shadow, by the scenes of PhotoWorld."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tagmoe.data.store.record import split_of
from tagmoe.errors import MissingError
from tagmoe.evaluate.answers.weights import digest_of_files
from tagmoe.factory.requests import Pair, Request
from tagmoe.factory.specialists.settings import Compose
from tagmoe.factory.specialists.specialist import Model, Photograph, Specialist, Unfit, encoded
from tagmoe.photoworld import HELD_OUT
from tagmoe.photoworld.edits import Draw, Edit
from tagmoe.photoworld.roots import FEWEST, Cutout, Roots, ground_of, picture_files, read_cutouts
from tagmoe.photoworld.tasks import TASKS
from tagmoe.tags import TaskDescriptor

DRAWS = 64
"""Scenes that are tried until one shows its change."""


class Composer(Specialist[Compose]):
    """Pairs of two scenes on a photograph. Cut-outs of validation are others than those of training."""

    def __init__(self, step: Compose) -> None:
        if not Path(step.cutouts).is_dir():
            raise MissingError(f"There is no folder {step.cutouts!r}; give a folder of cut-outs with alpha.")
        super().__init__(step)

    def open(self) -> None:
        assert self._cutouts

    def task(self, variant: str) -> str:
        return variant

    def tags(self, variant: str) -> TaskDescriptor:
        return TASKS[variant].tags

    def models(self, variant: str) -> Sequence[Model]:
        return (Model("tagmoe photoworld", self.step.licence, self._digest, self.step.may_train),)

    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        if min(photograph.image.size) < self.step.size:
            raise Unfit("the photograph is smaller than the pictures that are composed")
        train, validation = self._cutouts
        things = train if split_of(request.root.root) == "train" else validation
        # "Remove the rocket" would be two things on a photograph of a rocket.
        things = tuple(one for one in things if one.noun.lower() not in photograph.caption.lower())
        if len({one.group for one in things}) < FEWEST:
            raise Unfit("too few cut-outs are of other things than the photograph")
        roots = Roots(things, (ground_of(photograph.image, request.root.root, self.step.size),))
        edit = self._edit(request.wish.variant, Draw(dice, roots, self.step.size, False))
        images = [encoded(one, role) for one, role in zip(edit.sources, edit.roles, strict=True)]  # type: ignore[arg-type]
        mask = encoded(edit.mask.astype(np.uint8) * 255, "mask")
        return Pair(edit.instruction, (*images, mask), encoded(edit.target))

    def _edit(self, task: str, dice: Draw) -> Edit:
        for _ in range(DRAWS):
            edit = TASKS[task].make(dice)
            if edit is not None:
                return edit
        raise Unfit("no scene on this photograph shows its change")

    @cached_property
    def _cutouts(self) -> tuple[tuple[Cutout, ...], tuple[Cutout, ...]]:
        return read_cutouts(Path(self.step.cutouts), self.step.size, HELD_OUT)

    @cached_property
    def _digest(self) -> str:
        folder = Path(self.step.cutouts)
        return digest_of_files({file.relative_to(folder).as_posix(): file for file in picture_files(folder)})
