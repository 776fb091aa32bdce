"""Which of a case's references a similarity is to, and how several become one value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from tagmoe.errors import ImageError
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.learned import Choices, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value

Shows = Literal["face", "subject", "style"]
LEAST_SIDE = 16
"""A picture of fewer pixels in height or width shows no style and no subject: all networks see one colour. [ours]"""


class ReferenceChoices(Choices):
    """refs: the similarity to the first reference, or mean or most over all. cases: those whose reference is marked as
    what the metric looks at (`meta.reference`: face, subject or style), or all that have a reference."""

    refs: Literal["first", "mean", "max"] = "first"
    cases: Literal["marked", "all"] = "marked"


def why_not(case: Case, shows: Shows, chosen: ReferenceChoices) -> str | None:
    """Why the references of a case are none for a metric of faces, subjects or styles; None where they are."""
    if not case.refs:
        return "the case has no reference"
    given = case.meta.get("reference") or ()
    marked = [given] if isinstance(given, str) else list(given)
    if chosen.cases == "all" or shows in marked:
        return None
    return f"its reference shows a {marked[0]}" if marked else "the case does not say what its reference shows"


def large_enough(picture: Image.Image) -> Image.Image:
    """The picture. Raises ImageError for one of a few pixels, so that its case is listed and not scored."""
    if min(picture.size) < LEAST_SIDE:
        raise ImageError(
            f"A picture of {picture.width}x{picture.height} pixels is too small; it needs {LEAST_SIDE} a side."
        )
    return picture


def reference_inputs(pair: Pair, kind: str, content: Callable[[Any], Any], refs: str) -> dict[str, Input]:
    """The references that count, by names "reference 0", ... content: of a picture."""
    count = 1 if refs == "first" else len(pair.case.refs)
    return {
        f"reference {place}": Input(kind, content(pair.reference(place)), pair.case.refs[place])
        for place in range(count)
    }


def similarity(features: Mapping[str, Any], refs: str) -> float:
    """The cosine of the output's unit vector with those of the references: of one, or mean or most of all."""
    values = [float(np.dot(features["output"], own)) for name, own in features.items() if name.startswith("reference ")]
    return float(np.mean(values)) if refs == "mean" else max(values)


class ReferenceMetric(Learned):
    """The cosine of an output with the reference that it should be like; of unit vectors that `encode` gives."""

    shows: ClassVar[Shows]
    measure: ClassVar[Measure]
    choices = ReferenceChoices
    chosen: ReferenceChoices

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """Output and references, where these show it. Raises ImageError for pictures of a few pixels."""
        if why_not(pair.case, self.shows, self.chosen) is not None:
            return {}
        found = reference_inputs(pair, "picture", self._prepared, self.chosen.refs)
        return {"output": Input("picture", self._prepared(pair.output)), **found}

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The cosine."""
        reason = why_not(pair.case, self.shows, self.chosen)
        value: Value = similarity(features, self.chosen.refs) if reason is None else NoValue("not_applicable", reason)
        return {self.measure.name: value}

    @abstractmethod
    def prepare(self, picture: Image.Image) -> np.ndarray:
        """A picture as the network takes it."""

    def _prepared(self, picture: Image.Image) -> np.ndarray:
        return self.prepare(large_enough(picture))
