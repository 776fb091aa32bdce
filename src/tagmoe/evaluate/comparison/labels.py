"""What tables call a measure: a likeness to captions that a model wrote is not one to those of a data set."""

from __future__ import annotations

from dataclasses import replace

from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.metrics.metric import Measure

OF_CAPTIONS = ("clip_cap", "text_conse")
"""Measures that compare with a target's caption."""


def labelled(prepared: Prepared, measure: Measure) -> Measure:
    """The measure, with `@generated` after its name where some caption of the benchmark was written by a model."""
    is_generated = any(case.caption_origin == "generated" for case in prepared.cases)
    if not is_generated or measure.name not in OF_CAPTIONS:
        return measure
    return replace(measure, name=f"{measure.name}@generated", about=f"{measure.about}, which a model wrote")
