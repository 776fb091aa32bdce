"""`style`: a photograph in a style, by a network or by the functions of PhotoWorld; and back to the photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tagmoe.factory.requests import Pair, Request, Wish
from tagmoe.factory.specialists.networks import DrawingNetwork
from tagmoe.factory.specialists.settings import Style
from tagmoe.factory.specialists.specialist import Model, Photograph, Specialist, encoded, said
from tagmoe.photoworld.looks import STYLES
from tagmoe.photoworld.tasks import TASKS
from tagmoe.tags import TaskDescriptor

WORDINGS = {
    "to": ("Turn this into {style}.", "Make this {style}.", "Draw this as {style}.", "Show this as {style}."),
    "from": ("Turn {style} into a photograph.", "Make this a natural photograph.", "Show this as a photograph."),
}


class Styler(Specialist[Style]):
    """Pairs of a photograph and the same in a style."""

    def __init__(self, step: Style) -> None:
        super().__init__(step)
        self._network = None if step.network is None else DrawingNetwork(step.network)

    def open(self) -> None:
        if self._network is not None:
            self._network.open()

    def wishes(self, root: str) -> list[Wish]:
        # Each root gets other styles, so that a few of each make all of them come up.
        dice = np.random.default_rng(int(root[:16], 16))
        names = self.step.names
        drawn = {names[place] for place in dice.permutation(len(names))[: self.step.draws]}
        return [wish for wish in super().wishes(root) if _style_of(wish.variant) in drawn]

    def task(self, variant: str) -> str:
        return "style"

    def tags(self, variant: str) -> TaskDescriptor:
        return TASKS["style"].tags

    def models(self, variant: str) -> Sequence[Model]:
        name = _style_of(variant)
        return (self._network.model,) if self._is_drawn(name) and self._network else (Model(f"tagmoe style {name}"),)

    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        way, name = request.wish.variant.split(" ", 1)
        if self._is_drawn(name) and self._network is not None:
            pixels = self._network(photograph.image, name)
        else:
            pixels = STYLES[name](photograph.pixels)
        drawn = encoded(pixels)
        if way == "to":
            return Pair(said(dice, WORDINGS["to"], style=name), (photograph.picture,), drawn)
        this = "this " + name.removeprefix("a ").removeprefix("an ")
        return Pair(said(dice, WORDINGS["from"], style=this), (drawn,), photograph.picture)

    def _is_drawn(self, name: str) -> bool:
        return self.step.network is not None and name in self.step.network.styles


def _style_of(variant: str) -> str:
    return variant.split(" ", 1)[1]
