"""What every metric is, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from tagmoe.evaluate.benchmarks.cases import Case, Prepared

Better = Literal["higher", "lower", "neither"]
Kind = Literal["number", "share", "outcome"]
"""share: of 1, shown as per cent. outcome: 0 or 1 for each case; its mean is a share of successes."""
Lack = Literal["not_applicable", "undefined", "failed", "parse_error", "refused"]
"""Why there is no value. not_applicable: the case does not ask for it. undefined: it cannot be told for these pictures.
failed: the metric raised an error, or no answer came. parse_error: a judge answered something else. refused: a judge or
its server will not answer for these pictures or words."""
FAULTS: tuple[Lack, ...] = ("failed", "parse_error", "refused")
"""What a command lists, and exits with 1 for."""


@dataclass(frozen=True)
class Measure:
    """One value of a metric. better: which end is better. digits: how many a table shows. about: what it is."""

    name: str
    better: Better
    about: str
    digits: int = 3
    kind: Kind = "number"

    @property
    def range(self) -> str:
        """What a value may be, for sentences."""
        return {"number": "a finite number", "share": "between 0 and 1", "outcome": "0 or 1"}[self.kind]

    def holds(self, value: float) -> bool:
        """Whether a value is one that this measure can have."""
        if self.kind == "outcome":
            return value in (0.0, 1.0)
        return 0.0 <= value <= 1.0 if self.kind == "share" else isfinite(value)


@dataclass(frozen=True)
class NoValue:
    """There is no value, and why. It is never counted as a number."""

    status: Lack
    reason: str


Value = float | NoValue


@dataclass(frozen=True)
class Pair:
    """A case with the output of an editor. Pictures are decoded when the first metric asks for them.

    An output of another size than the picture it is compared with is resized to that (bicubic, as ICE-Bench does).
    """

    case: Case
    output: Image.Image
    prepared: Prepared
    resized: set[str] = field(default_factory=set)
    """Which pictures the output was resized to."""

    @cached_property
    def source(self) -> Image.Image | None:
        """The source, upright RGB."""
        return None if self.case.source is None else self.prepared.picture(self.case.source)

    @cached_property
    def target(self) -> Image.Image | None:
        """The right answer, where the benchmark has one."""
        return None if self.case.target is None else self.prepared.picture(self.case.target)

    @cached_property
    def mask(self) -> Image.Image | None:
        """The mask (L), white where the edit may change pixels."""
        return None if self.case.mask is None else self.prepared.mask(self.case.mask)

    def reference(self, place: int) -> Image.Image:
        """One of the references, upright RGB."""
        return self.prepared.picture(self.case.refs[place])

    def edited(self, like: Image.Image) -> np.ndarray | None:
        """(H, W) bool of the size of a picture, true where the edit may change pixels; None without a mask."""
        if self.mask is None:
            return None
        mask = self.mask if self.mask.size == like.size else self.mask.resize(like.size, Image.Resampling.NEAREST)
        # As ICE-Bench: brighter than 128.
        return np.asarray(mask) > 128

    def beside(self, other: Image.Image, name: str) -> Image.Image:
        """The output at the size of another picture. name: of that, to note that it was resized."""
        if self.output.size == other.size:
            return self.output
        self.resized.add(name)
        return self.output.resize(other.size, Image.Resampling.BICUBIC)


class Metric(Protocol):
    """Values of one kind. name: also of the file of its scores. version: rises when a value may change."""

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def version(self) -> int:
        """The version."""
        ...

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it gives."""
        ...

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """A value, or why there is none, for each of its measures. It may raise for unusable pictures."""
        ...


def lacking(measures: tuple[Measure, ...], status: Lack, reason: str) -> dict[str, Value]:
    """No value for any of these measures."""
    return {measure.name: NoValue(status, reason) for measure in measures}
