"""The four anchors of every table: what a score is worth shows only beside outputs whose worth is known.

copy: the source, unchanged; what does nothing keeps everything. target: the right answer, where the benchmark has one.
black: a black picture. shuffled: the target, or else the source, of another case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from tagmoe.errors import UsageError
from tagmoe.evaluate.answers.answer import NoPicture, Output
from tagmoe.evaluate.benchmarks.cases import Case, Prepared

Anchor = Literal["copy", "target", "black", "shuffled"]
ANCHORS: tuple[str, ...] = get_args(Anchor)


class AnchorAnswers:
    """The outputs of an anchor. seed: of the shuffling, which is one cycle through all cases that have a picture."""

    def __init__(self, name: str, prepared: Prepared, seed: int = 0) -> None:
        """Raises UsageError for an unknown anchor."""
        if name not in ANCHORS:
            raise UsageError(f"There is no anchor {name!r}; give one of {', '.join(ANCHORS)}.")
        self._name, self._prepared, self._seed = name, prepared, seed
        self.gives_black = name == "black"
        self._others = _others(prepared, seed) if name == "shuffled" else {}

    def facts(self) -> Mapping[str, Any]:
        """Its name, and the seed where it has one."""
        return {"kind": "anchor", "name": self._name, **({"shuffle": self._seed} if self._name == "shuffled" else {})}

    def pictures_of(self, case: Case) -> int:
        """None: it is not asked with pictures."""
        return 0

    def __call__(self, cases: Sequence[tuple[int, Case]], seeds: Sequence[int]) -> Sequence[Output]:
        """One output a case; seeds do not matter."""
        return [self._output(position, case) for position, case in cases]

    def _output(self, position: int, case: Case) -> Output:
        given = case.source or next(iter(case.refs), None)
        if self._name == "target":
            return self._picture(case.target, "the benchmark has no target")
        if self._name == "copy":
            return self._picture(given, "the case has no picture to copy")
        if self._name == "shuffled":
            return self._picture(self._others.get(position), "no other case has a picture")
        like = case.source or case.target or given
        size = (1024, 1024) if like is None else self._prepared.picture(like).size
        return Image.new("RGB", size)

    def _picture(self, name: str | None, reason: str) -> Output:
        return NoPicture("inapplicable", reason) if name is None else self._prepared.picture(name)


def _others(prepared: Prepared, seed: int) -> dict[int, str]:
    """The picture of another case, for each position."""
    pictures = {number: case.target or case.source for number, case in enumerate(prepared.cases)}
    known = [number for number, name in pictures.items() if name is not None]
    if not known:
        return {}
    order = [known[i] for i in np.random.default_rng(seed).permutation(len(known))]
    after = dict(zip(order, [*order[1:], order[0]], strict=True))
    # A case without a picture of its own, such as text to image on photographs, gets any.
    found = {number: pictures[after.get(number, known[number % len(known)])] for number in pictures}
    return {number: name for number, name in found.items() if name is not None and after.get(number) != number}
