"""Which of a case's references a similarity is to, and how several become one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from PIL import Image

from tagmoe.errors import ImageError
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.learned import Choices, Input
from tagmoe.evaluate.metrics.metric import Pair

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
