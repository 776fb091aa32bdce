"""TagWorld's oracle as a metric: it reads the scene back from the pixels and knows the case's truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value, lacking
from tagmoe.evaluate.tagworld import judged
from tagmoe.world import judge, sample

BENCH = "tagworld"


class Oracle:
    """The verdict of `tagmoe.world.judge`. Not applicable to other cases than TagWorld's."""

    name = "oracle"
    version = 1
    measures = (
        Measure("success", "higher", "the edit is done whole and all the rest is as it was", kind="outcome"),
        Measure(
            "edit_done", "higher", "the edit is done, though perhaps not all the rest is as it was", kind="outcome"
        ),
        Measure("unchanged", "higher", "share of what the edit should leave alone that is as it was", kind="share"),
        Measure("subject", "higher", "share of the attributes of things that were kept", kind="share"),
        Measure("face", "higher", "share of skin and hair that were kept", kind="share"),
        Measure("style", "higher", "share of style and light that were kept", kind="share"),
    )

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The verdict; the case is drawn again from its seed, and must be the one that was prepared."""
        case = pair.case
        if case.bench != BENCH:
            return lacking(self.measures, "not_applicable", "only TagWorld's truth is known exactly")
        meta = case.meta
        drawn = sample(meta["seed"], meta["index"], split="test", task=case.task, divide=meta["divide"])
        if pair.target is None or not np.array_equal(np.asarray(pair.target), drawn.target):
            return lacking(self.measures, "failed", "this version of TagWorld draws another case; prepare it again")
        found = asdict(judged(drawn, judge(drawn, pair.output)))
        missing = NoValue("not_applicable", "the case does not ask for it")
        return {name: missing if value is None else float(value) for name, value in found.items()}
