"""What every specialist is, and how it is opened as a maker of the factory.

A specialist makes pairs of a photograph: pictures, words and target together, where an editor is given the words. What
it makes follows from the root, the settings and the seed alone. The photograph itself is the target wherever a damage,
a map or a removal can be made of it: then the target is real (the inverse trick of HQ-Edit and Paint-by-Inpaint).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from tagmoe.data.store.record import Picture, Record, Role
from tagmoe.errors import CheckpointError, ImageError, MissingError, UsageError
from tagmoe.evaluate.answers.answer import RAISED, reason_raised
from tagmoe.factory.makers import FREE, Maker, may_train
from tagmoe.factory.making import Made
from tagmoe.factory.requests import Pair, Request, Wish
from tagmoe.factory.specialists.settings import Make
from tagmoe.pictures import is_plain, load_image, png_of
from tagmoe.report.printable import printable
from tagmoe.tags import TaskDescriptor

OWN_LICENCE = FREE
"""Of what functions of tagmoe and of libraries make: nothing that belongs to anybody goes into it."""
MODULES = {
    "restore": ("restore", "Restorer"),
    "control": ("control", "Controller"),
    "remove": ("remove", "Remover"),
    "style": ("style", "Styler"),
    "compose": ("compose", "Composer"),
}
"""Specialist -> its module and class; a module is imported when it is needed."""

S = TypeVar("S", bound=Make)


class Unfit(Exception):
    """Nothing can be made of a root, and why: a short fixed text, by which rows are counted."""


@dataclass(frozen=True)
class Photograph:
    """The photograph of a root. image: upright RGB. picture: the same, encoded; the root's own bytes where these hold
    nothing else. caption: what it shows, or ''."""

    image: Image.Image
    picture: Picture
    caption: str

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return np.asarray(self.image)


class Specialist(ABC, Generic[S]):
    """A specialist with its settings (sec. 3.4). Networks are read when the first picture is made."""

    def __init__(self, step: S) -> None:
        """Raises MissingError and UsageError for files that are not there."""
        self.step = step

    def wishes(self, root: str) -> list[Wish]:
        """What is to be made of a root. root: its id in the store."""
        return [
            Wish("", self.task(variant), self.tags(variant).indices, variant=variant) for variant in self.step.variants
        ]

    def open(self) -> None:
        """Read what all pairs need. Raises CheckpointError, DataError and MissingError for what cannot be read."""

    @abstractmethod
    def task(self, variant: str) -> str:
        """The native task of a variant's pairs."""

    @abstractmethod
    def tags(self, variant: str) -> TaskDescriptor:
        """Their tags."""

    @abstractmethod
    def models(self, variant: str) -> Sequence[Model]:
        """Who makes them, in the order of the work."""

    @abstractmethod
    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        """The pair of a request. dice: of its seed. Raises Unfit where nothing can be made of the root."""

    def makers(self, title: str, variant: str) -> list[Maker]:
        """As lineages name them. title: of the step."""
        return [
            Maker(
                step=title,
                model=one.name,
                weights=one.weights,
                licence=one.licence,
                may_train=may_train(one.licence, one.may_train),
                settings={"variant": variant},
            )
            for one in self.models(variant)
        ]

    def all_makers(self, title: str) -> Iterator[Maker]:
        """Those of all variants."""
        for variant in self.step.variants:
            yield from self.makers(title, variant)


@dataclass(frozen=True)
class Model:
    """What works for a specialist: a network with the digest of its weights, or a function of tagmoe or a library."""

    name: str
    licence: str = OWN_LICENCE
    weights: str | None = None
    may_train: bool | None = None


@dataclass(frozen=True)
class OpenSpecialist:
    """Opens a specialist as a maker, in the process that is to run it."""

    step: Make

    def __call__(self) -> Specialists:
        return Specialists(open_specialist(self.step))


class Specialists:
    """A specialist as a maker. What cannot be made of one root harms no other."""

    def __init__(self, specialist: Specialist[Any]) -> None:
        specialist.open()
        self._specialist = specialist
        self._last: tuple[str, Photograph] | None = None

    def __call__(self, asked: Sequence[Request]) -> list[Made]:
        """The pairs. Raises CheckpointError, MissingError and UsageError for what concerns all of them."""
        return [self._made(request) for request in asked]

    def close(self) -> None:
        """Nothing is open."""

    def _made(self, request: Request) -> Made:
        started = time.perf_counter()
        try:
            photograph = self._photograph(request.root)
            dice = np.random.default_rng([request.seed, *_number_of(request.id)])
            pair = self._specialist.make(photograph, request, dice)
        except Unfit as why:
            return Made(request.id, "unfit", str(why), seconds=time.perf_counter() - started)
        except (CheckpointError, MissingError, UsageError):
            raise
        except RAISED as error:
            why_not = str(error) if isinstance(error, ImageError) else reason_raised(error)
            return Made(request.id, "failed", printable(why_not), seconds=time.perf_counter() - started)
        return Made.of(request, pair, time.perf_counter() - started)

    def _photograph(self, root: Record) -> Photograph:
        """The photograph of a root, decoded once for all its pairs."""
        if self._last is None or self._last[0] != root.id:
            self._last = root.id, photograph_of(root, self._specialist.step.side)
        return self._last[1]


def open_specialist(step: Make) -> Specialist[Any]:
    """The specialist of a step. Raises MissingError and UsageError for files and packages that are not there."""
    module, name = MODULES[step.by]
    found: Specialist[Any] = getattr(import_module(f"tagmoe.factory.specialists.{module}"), name)(step)
    return found


def photograph_of(root: Record, side: int) -> Photograph:
    """The photograph of a root: its first input, or its target. side: longest side in pixels. Raises ImageError."""
    is_input = bool(root.inputs)
    own = root.inputs[0] if is_input else root.target
    # A record of text to image has its caption as the instruction.
    caption = root.caption_source if is_input else root.caption_target or root.instruction
    image = load_image(own.data)
    if max(image.size) <= side and is_plain(own.data):
        return Photograph(image, replace(own, role="source"), (caption or "").strip())
    if max(image.size) > side:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Photograph(image, encoded(image), (caption or "").strip())


def encoded(picture: Image.Image | np.ndarray, role: Role = "source") -> Picture:
    """A picture as a lossless PNG; an array is (H, W) or (H, W, 3) uint8."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return Picture(png_of(image), image.width, image.height, role)


def said(dice: np.random.Generator, wordings: Sequence[str], **values: str) -> str:
    """One of several wordings, filled in."""
    text = wordings[int(dice.integers(len(wordings)))].format(**values)
    return text[0].upper() + text[1:]


def _number_of(name: str) -> list[int]:
    """Two numbers of an id of hexadecimal digits: equal seeds of two roots draw different things."""
    return [int(name[:8], 16), int(name[8:16], 16)]
